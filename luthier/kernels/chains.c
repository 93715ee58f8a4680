/* The element-wise chains of a decoder's layers on a CPU, each in one pass over memory.

What goes in: rows first..last of tensors, float32 or bfloat16. What comes out: what `norm.py`, `rotary.py`, `gated.py`
and `softmax.py` give, up to rounding: everything is float32 and rounded once. `chained.py` is the only caller; it says
what each argument is. A row depends on no other row and on no thread: callers may divide rows among threads. */

#include "numbers.h"

#include <math.h>

#define PIECE 256

EXPORT uint32_t luthier_chains_source(void) { return SOURCE; }

/* ---------------------------------------------------------------------------------------------------- norms */

/* rstd = 1 / sqrt(mean(x^2) + eps), where `scaled` has none yet; y = x * rstd * weight, where it is wanted. -1 where
   there is no memory. */
WIDTHS EXPORT int luthier_chains_norm(const void *x, const float *weight, void *y, float *rstd, number first, number last, number width, float eps, int known, int half) {
    float *row = malloc((size_t)width * sizeof(float));
    number at, each;
    if (!row) return -1;
    for (at = first; at < last; at++) {
        float scale;
        read_row(row, x, at * width, width, half);
        if (!known) rstd[at] = 1.0f / sqrtf(dot(row, row, width) / (float)width + eps);
        if (!y) continue;
        scale = rstd[at];
        for (each = 0; each < width; each++) row[each] = row[each] * scale * weight[each];
        write_row(y, at * width, row, width, half);
    }
    free(row);
    return 0;
}

/* dx = (g - xhat * mean(g * xhat)) * rstd + residual, with xhat = x * rstd and g = dy * weight. residual: may be NULL. */
WIDTHS EXPORT int luthier_chains_norm_backward(const void *x, const float *rstd, const float *weight, const void *dy, const void *residual, void *dx, number first, number last, number width, int half) {
    float *memory = malloc((size_t)(3 * width) * sizeof(float));
    float *row = memory, *g = memory + width, *beside = memory + 2 * width;
    number at, each;
    if (!memory) return -1;
    for (at = first; at < last; at++) {
        float scale = rstd[at], mean;
        read_row(row, x, at * width, width, half);
        read_row(g, dy, at * width, width, half);
        for (each = 0; each < width; each++) row[each] *= scale, g[each] *= weight[each];
        mean = dot(row, g, width) / (float)width;
        for (each = 0; each < width; each++) g[each] = (g[each] - row[each] * mean) * scale;
        if (residual) {
            read_row(beside, residual, at * width, width, half);
            for (each = 0; each < width; each++) g[each] += beside[each];
        }
        write_row(dx, at * width, g, width, half);
    }
    free(memory);
    return 0;
}

/* -------------------------------------------------------------------------------------------------- rotation */

INLINE void swap(float *to, const float *from, number width, number rotated, int interleaved) {
    number pairs = rotated / 2, each;
    if (interleaved)
        for (each = 0; each < pairs; each++) to[2 * each] = from[2 * each + 1], to[2 * each + 1] = from[2 * each];
    else {
        memcpy(to, from + pairs, (size_t)pairs * sizeof(float));
        memcpy(to + pairs, from, (size_t)pairs * sizeof(float));
    }
    memcpy(to + rotated, from + rotated, (size_t)(width - rotated) * sizeof(float));
}

/* out = x * cos + swap(x) * sin, of x whose rows and heads lie `row` and `head` apart; backwards swap(x * sin). */
WIDTHS EXPORT int luthier_chains_rotate(const void *x, number row, number head, const void *cos, const void *sin, void *out, number first, number last, number heads, number width, number rotated, int interleaved, int backwards, int half) {
    float *memory = malloc((size_t)(5 * width) * sizeof(float));
    float *c = memory, *s = c + width, *from = s + width, *turned = from + width, *product = turned + width;
    number at, which, each;
    if (!memory) return -1;
    for (at = first; at < last; at++) {
        read_row(c, cos, at * width, width, half);
        read_row(s, sin, at * width, width, half);
        for (which = 0; which < heads; which++) {
            read_row(from, x, at * row + which * head, width, half);
            if (backwards) {
                for (each = 0; each < width; each++) product[each] = from[each] * s[each];
                swap(turned, product, width, rotated, interleaved);
                for (each = 0; each < width; each++) from[each] = from[each] * c[each] + turned[each];
            } else {
                swap(turned, from, width, rotated, interleaved);
                for (each = 0; each < width; each++) from[each] = from[each] * c[each] + turned[each] * s[each];
            }
            write_row(out, (at * heads + which) * width, from, width, half);
        }
    }
    free(memory);
    return 0;
}

/* ------------------------------------------------------------------------------------------------------ gate */

/* m = silu(e) * g */
WIDTHS EXPORT int luthier_chains_gate(const void *e, const void *g, void *m, number first, number last, int half) {
    float one[PIECE], other[PIECE];
    number at, each;
    for (at = first; at < last; at += PIECE) {
        number count = last - at < PIECE ? last - at : PIECE;
        read_row(one, e, at, count, half);
        read_row(other, g, at, count, half);
        for (each = 0; each < count; each++) one[each] = one[each] / (1.0f + exponential(-one[each])) * other[each];
        write_row(m, at, one, count, half);
    }
    return 0;
}

/* Gradients of e, written over dm, and of g. */
WIDTHS EXPORT int luthier_chains_gate_backward(void *dm, const void *e, const void *g, void *dg, number first, number last, int half) {
    float one[PIECE], other[PIECE], came[PIECE];
    number at, each;
    for (at = first; at < last; at += PIECE) {
        number count = last - at < PIECE ? last - at : PIECE;
        read_row(one, e, at, count, half);
        read_row(other, g, at, count, half);
        read_row(came, dm, at, count, half);
        for (each = 0; each < count; each++) {
            float gate = 1.0f / (1.0f + exponential(-one[each])), silu = one[each] * gate;
            other[each] *= came[each] * (gate + silu * (1.0f - gate));
            came[each] *= silu;
        }
        write_row(dm, at, other, count, half);
        write_row(dg, at, came, count, half);
    }
    return 0;
}

/* --------------------------------------------------------------------------------------------------- softmax */

/* Log-probability of each row's target, and its entropy where that is wanted; with coefficients logits become
   c * (onehot - softmax). Rows lie `row` apart. */
WIDTHS EXPORT int luthier_chains_softmax(void *logits, number row, const number *targets, const float *coefficients, float *logp, float *entropy, number first, number last, number width, int half) {
    float *line = malloc((size_t)width * sizeof(float));
    number at, each;
    int lane;
    if (!line) return -1;
    for (at = first; at < last; at++) {
        float lanes[LANES] = {0}, most[LANES], largest = -INFINITY, rest = 0, sum, mean = 0, target;
        for (lane = 0; lane < LANES; lane++) most[lane] = -INFINITY;
        read_row(line, logits, at * row, width, half);
        for (each = 0; each + LANES <= width; each += LANES)
            for (lane = 0; lane < LANES; lane++) most[lane] = larger(line[each + lane], most[lane]);
        for (; each < width; each++) largest = larger(line[each], largest);
        for (lane = 0; lane < LANES; lane++) largest = larger(most[lane], largest);
        target = line[targets[at]] - largest;
        if (entropy) {
            float weighted[LANES] = {0};
            for (each = 0; each + LANES <= width; each += LANES)
                for (lane = 0; lane < LANES; lane++) {
                    float below = line[each + lane] - largest, power = exponential(below);
                    lanes[lane] += power, weighted[lane] += power * below;
                    line[each + lane] = power;
                }
            for (; each < width; each++) {
                float below = line[each] - largest, power = exponential(below);
                rest += power, mean += power * below;
                line[each] = power;
            }
            mean += total(weighted);
        } else {
            for (each = 0; each + LANES <= width; each += LANES)
                for (lane = 0; lane < LANES; lane++) {
                    float power = exponential(line[each + lane] - largest);
                    lanes[lane] += power;
                    line[each + lane] = power;
                }
            for (; each < width; each++) rest += line[each] = exponential(line[each] - largest);
        }
        sum = total(lanes) + rest;
        logp[at] = target - logf(sum);
        if (entropy) entropy[at] = logf(sum) - mean / sum;
        if (coefficients) {
            float scale = -coefficients[at] / sum;
            for (each = 0; each < width; each++) line[each] *= scale;
            line[targets[at]] += coefficients[at];
            write_row(logits, at * row, line, width, half);
        }
    }
    free(line);
    return 0;
}
