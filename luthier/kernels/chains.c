/* The element-wise chains of a decoder's layers on a CPU, each in one pass over memory.

What goes in: rows first..last of tensors, float32 or bfloat16. What comes out: what `norm.py`, `rotary.py`, `gated.py`
and `softmax.py` give, up to rounding: everything is float32 and rounded once. `chained.py` is the only caller; it says
what each argument is. A row depends on no other row and on no thread: threads share them (`take`). */

#include "numbers.h"

#include <math.h>

#define PIECE 256

EXPORT uint32_t luthier_chains_source(void) { return SOURCE; }
EXPORT void luthier_chains_take(void *shared) { take(shared); }

/* ---------------------------------------------------------------------------------------------------- norms */

typedef struct { const void *x; const float *weight; void *y; float *rstd; number width; float eps; int known, half; } Norm;

/* rstd = 1 / sqrt(mean(x^2) + eps), where it is not known yet; y = x * rstd * weight, where it is wanted. -1 where
   there is no memory. */
WIDTHS EXPORT int luthier_chains_norm(const void *job, number first, number last) {
    const Norm c = *(const Norm *)job;
    float *row = malloc((size_t)c.width * sizeof(float));
    number at, each;
    if (!row) return -1;
    for (at = first; at < last; at++) {
        float scale;
        read_row(row, c.x, at * c.width, c.width, c.half);
        if (!c.known) c.rstd[at] = 1.0f / sqrtf(dot(row, row, c.width) / (float)c.width + c.eps);
        if (!c.y) continue;
        scale = c.rstd[at];
        for (each = 0; each < c.width; each++) row[each] = row[each] * scale * c.weight[each];
        write_row(c.y, at * c.width, row, c.width, c.half);
    }
    free(row);
    return 0;
}

typedef struct { const void *x; const float *rstd, *weight; const void *dy, *residual; void *dx; number width; int half; } NormBackward;

/* dx = (g - xhat * mean(g * xhat)) * rstd + residual, with xhat = x * rstd and g = dy * weight. residual: may be NULL. */
WIDTHS EXPORT int luthier_chains_norm_backward(const void *job, number first, number last) {
    const NormBackward c = *(const NormBackward *)job;
    float *memory = malloc((size_t)(3 * c.width) * sizeof(float));
    float *row = memory, *g = memory + c.width, *beside = memory + 2 * c.width;
    number at, each;
    if (!memory) return -1;
    for (at = first; at < last; at++) {
        float scale = c.rstd[at], mean;
        read_row(row, c.x, at * c.width, c.width, c.half);
        read_row(g, c.dy, at * c.width, c.width, c.half);
        for (each = 0; each < c.width; each++) row[each] *= scale, g[each] *= c.weight[each];
        mean = dot(row, g, c.width) / (float)c.width;
        for (each = 0; each < c.width; each++) g[each] = (g[each] - row[each] * mean) * scale;
        if (c.residual) {
            read_row(beside, c.residual, at * c.width, c.width, c.half);
            for (each = 0; each < c.width; each++) g[each] += beside[each];
        }
        write_row(c.dx, at * c.width, g, c.width, c.half);
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

typedef struct { const void *x, *cos, *sin; void *out; number row, head, heads, width, rotated; int interleaved, backwards, half; } Rotate;

/* out = x * cos + swap(x) * sin, of x whose rows and heads lie `row` and `head` apart; backwards swap(x * sin). */
WIDTHS EXPORT int luthier_chains_rotate(const void *job, number first, number last) {
    const Rotate c = *(const Rotate *)job;
    float *memory = malloc((size_t)(5 * c.width) * sizeof(float));
    float *cosine = memory, *sine = cosine + c.width, *from = sine + c.width, *turned = from + c.width, *product = turned + c.width;
    number at, which, each;
    if (!memory) return -1;
    for (at = first; at < last; at++) {
        read_row(cosine, c.cos, at * c.width, c.width, c.half);
        read_row(sine, c.sin, at * c.width, c.width, c.half);
        for (which = 0; which < c.heads; which++) {
            read_row(from, c.x, at * c.row + which * c.head, c.width, c.half);
            if (c.backwards) {
                for (each = 0; each < c.width; each++) product[each] = from[each] * sine[each];
                swap(turned, product, c.width, c.rotated, c.interleaved);
                for (each = 0; each < c.width; each++) from[each] = from[each] * cosine[each] + turned[each];
            } else {
                swap(turned, from, c.width, c.rotated, c.interleaved);
                for (each = 0; each < c.width; each++) from[each] = from[each] * cosine[each] + turned[each] * sine[each];
            }
            write_row(c.out, (at * c.heads + which) * c.width, from, c.width, c.half);
        }
    }
    free(memory);
    return 0;
}

/* ------------------------------------------------------------------------------------------------------ gate */

typedef struct { const void *e, *g; void *m; int half; } Gate;

/* m = silu(e) * g */
WIDTHS EXPORT int luthier_chains_gate(const void *job, number first, number last) {
    const Gate c = *(const Gate *)job;
    float one[PIECE], other[PIECE];
    number at, each;
    for (at = first; at < last; at += PIECE) {
        number count = last - at < PIECE ? last - at : PIECE;
        read_row(one, c.e, at, count, c.half);
        read_row(other, c.g, at, count, c.half);
        for (each = 0; each < count; each++) one[each] = one[each] / (1.0f + exponential(-one[each])) * other[each];
        write_row(c.m, at, one, count, c.half);
    }
    return 0;
}

typedef struct { void *dm; const void *e, *g; void *dg; int half; } GateBackward;

/* Gradients of e, written over dm, and of g. */
WIDTHS EXPORT int luthier_chains_gate_backward(const void *job, number first, number last) {
    const GateBackward c = *(const GateBackward *)job;
    float one[PIECE], other[PIECE], came[PIECE];
    number at, each;
    for (at = first; at < last; at += PIECE) {
        number count = last - at < PIECE ? last - at : PIECE;
        read_row(one, c.e, at, count, c.half);
        read_row(other, c.g, at, count, c.half);
        read_row(came, c.dm, at, count, c.half);
        for (each = 0; each < count; each++) {
            float gate = 1.0f / (1.0f + exponential(-one[each])), silu = one[each] * gate;
            other[each] *= came[each] * (gate + silu * (1.0f - gate));
            came[each] *= silu;
        }
        write_row(c.dm, at, other, count, c.half);
        write_row(c.dg, at, came, count, c.half);
    }
    return 0;
}

/* --------------------------------------------------------------------------------------------------- softmax */

typedef struct { void *logits; const number *targets; const float *coefficients; float *logp, *entropy; number row, width; int half; } Softmax;

/* Log-probability of each row's target, and its entropy where that is wanted; with coefficients logits become
   c * (onehot - softmax). Rows lie `row` apart. */
WIDTHS EXPORT int luthier_chains_softmax(const void *job, number first, number last) {
    const Softmax c = *(const Softmax *)job;
    float *line = malloc((size_t)c.width * sizeof(float));
    number at, each;
    int lane;
    if (!line) return -1;
    for (at = first; at < last; at++) {
        float lanes[LANES] = {0}, most[LANES], largest = -INFINITY, rest = 0, sum, mean = 0, target;
        for (lane = 0; lane < LANES; lane++) most[lane] = -INFINITY;
        read_row(line, c.logits, at * c.row, c.width, c.half);
        for (each = 0; each + LANES <= c.width; each += LANES)
            for (lane = 0; lane < LANES; lane++) most[lane] = larger(line[each + lane], most[lane]);
        for (; each < c.width; each++) largest = larger(line[each], largest);
        for (lane = 0; lane < LANES; lane++) largest = larger(most[lane], largest);
        target = line[c.targets[at]] - largest;
        if (c.entropy) {
            float weighted[LANES] = {0};
            for (each = 0; each + LANES <= c.width; each += LANES)
                for (lane = 0; lane < LANES; lane++) {
                    float below = line[each + lane] - largest, power = exponential(below);
                    lanes[lane] += power, weighted[lane] += power * below;
                    line[each + lane] = power;
                }
            for (; each < c.width; each++) {
                float below = line[each] - largest, power = exponential(below);
                rest += power, mean += power * below;
                line[each] = power;
            }
            mean += total(weighted);
        } else {
            for (each = 0; each + LANES <= c.width; each += LANES)
                for (lane = 0; lane < LANES; lane++) {
                    float power = exponential(line[each + lane] - largest);
                    lanes[lane] += power;
                    line[each + lane] = power;
                }
            for (; each < c.width; each++) rest += line[each] = exponential(line[each] - largest);
        }
        sum = total(lanes) + rest;
        c.logp[at] = target - logf(sum);
        if (c.entropy) c.entropy[at] = logf(sum) - mean / sum;
        if (c.coefficients) {
            float scale = -c.coefficients[at] / sum;
            for (each = 0; each < c.width; each++) line[each] *= scale;
            line[c.targets[at]] += c.coefficients[at];
            write_row(c.logits, at * c.row, line, c.width, c.half);
        }
    }
    free(line);
    return 0;
}
