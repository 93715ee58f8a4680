/* What a generated token costs beside products with weights: norms, rotation, attention over the cache, the gate.

What goes in: rows of a few sequences, one new token of each, as float32 or bfloat16. What comes out: the same rows on
their way through a decoder layer. `step.py` is the only caller; it says what each argument is. Everything is summed in
float32 and rounded once.

A row depends on no other row and on no thread: callers may divide rows among threads. */

#include "numbers.h"

#include <math.h>

#define BLOCK 32 /* tokens of a block of the cache; `models/cache.py` has the same */

EXPORT uint32_t luthier_step_source(void) { return SOURCE; }
EXPORT void luthier_step_take(void *shared) { take(shared); }
EXPORT int luthier_step_block(void) { return BLOCK; }

/* ---------------------------------------------------------------------------------------------------- norms */

INLINE void norm_row(float *row, const float *weight, number width, float eps) {
    float scale = 1.0f / sqrtf(dot(row, row, width) / (float)width + eps);
    number each;
    for (each = 0; each < width; each++) row[each] = row[each] * scale * weight[each];
}

WIDTHS static void norm_rows(const void *h, const float *weight, void *x, number rows, number width, float eps, int half, float *row) {
    number each;
    for (each = 0; each < rows; each++) {
        read_row(row, h, each * width, width, half);
        norm_row(row, weight, width, eps);
        write_row(x, each * width, row, width, half);
    }
}

/* x = h / sqrt(mean(h^2) + eps) * weight; -1 where there is no memory. */
EXPORT int luthier_step_norm(const void *h, const float *weight, void *x, number rows, number width, float eps, int half) {
    float *row = malloc((size_t)width * sizeof(float));
    if (!row) return -1;
    norm_rows(h, weight, x, rows, width, eps, half, row);
    free(row);
    return 0;
}

/* ------------------------------------------------------------------------------------------------ attention */

typedef struct {
    number heads, kv_heads, width, rotated, interleaved, window; /* rotated: features of a head; window: 0 for none */
    double scale, eps;
    const float *q_norm, *k_norm; /* NULL where heads are not normed */
    number half;
} Mixer;

typedef struct {
    const number *places;  /* the row of the cache that each new token is written to */
    const number *lengths; /* tokens of each sequence, the new one included */
    const number *table;   /* blocks of each sequence, `blocks` to a row */
    number blocks;
    const float *cos, *sin; /* of each row, `width` features; the sine signed as `rotary.tables` has it */
} Round;

INLINE void rotate(float *x, const float *cos, const float *sin, number rotated, number interleaved, float *swapped) {
    number pairs = rotated / 2, each;
    if (interleaved)
        for (each = 0; each < pairs; each++) {
            swapped[2 * each] = x[2 * each + 1];
            swapped[2 * each + 1] = x[2 * each];
        }
    else {
        memcpy(swapped, x + pairs, (size_t)pairs * sizeof(float));
        memcpy(swapped + pairs, x, (size_t)pairs * sizeof(float));
    }
    for (each = 0; each < rotated; each++) x[each] = x[each] * cos[each] + swapped[each] * sin[each];
}

INLINE void ready(float *heads, number count, const Mixer *mixer, const float *norm, const Round *round, number row, float *swapped) {
    number each, width = mixer->width;
    for (each = 0; each < count; each++) {
        if (norm) norm_row(heads + each * width, norm, width, (float)mixer->eps);
        if (mixer->rotated)
            rotate(heads + each * width, round->cos + row * width, round->sin + row * width, mixer->rotated, mixer->interleaved, swapped);
    }
}

/* The queries of one key/value head over keys first..last of a block; what was summed before is scaled down where a
   larger score comes (Milakov and Gimelshein 2018, arXiv 1805.02867). */
INLINE void attend_block(const float *q, float *out, float *most, float *sum, number shared, const float *k, const float *v, number count, number width) {
    number query, key, each;
    for (query = 0; query < shared; query++) {
        float scores[BLOCK], lanes[LANES], largest = most[query], shrunk, *to = out + query * width;
        for (key = 0; key < count; key++) scores[key] = dot(q + query * width, k + key * width, width);
        for (key = count; key < BLOCK; key++) scores[key] = -INFINITY;
        for (each = 0; each < LANES; each++) lanes[each] = larger(scores[each], scores[each + LANES]);
        for (each = 0; each < 8; each++) lanes[each] = larger(lanes[each], lanes[each + 8]);
        for (each = 0; each < 8; each++) largest = larger(largest, lanes[each]);
        shrunk = exponential(most[query] - largest);
        for (key = 0; key < BLOCK; key++) scores[key] = exponential(scores[key] - largest);
        for (each = 0; each < LANES; each++) lanes[each] = scores[each] + scores[each + LANES];
        most[query] = largest;
        sum[query] = sum[query] * shrunk + total(lanes);
        for (each = 0; each < width; each++) to[each] *= shrunk;
        for (key = 0; key + 4 <= count; key += 4) {
            const float *from = v + key * width;
            float a = scores[key], b = scores[key + 1], c = scores[key + 2], d = scores[key + 3];
            for (each = 0; each < width; each++)
                to[each] += (a * from[each] + b * from[width + each]) + (c * from[2 * width + each] + d * from[3 * width + each]);
        }
        for (; key < count; key++)
            for (each = 0; each < width; each++) to[each] += scores[key] * v[key * width + each];
    }
}

WIDTHS static void attend_rows(const Mixer *mixer, const Round *round, const void *qkv, void *keys, void *values, void *out, number first, number last, float *memory) {
    number heads = mixer->heads, kv_heads = mixer->kv_heads, width = mixer->width, shared = heads / kv_heads, row;
    int half = (int)mixer->half;
    float *q = memory, *k = q + heads * width, *v = k + BLOCK * width, *sums = v + BLOCK * width;
    float *most = sums + heads * width, *sum = most + heads, *swapped = sum + heads, *own = swapped + width;
    for (row = first; row < last; row++) {
        number at = row * (heads + 2 * kv_heads) * width, place = round->places[row] * kv_heads * width;
        number length = round->lengths[row], begin = 0, block, each, head;
        if (mixer->window && length > mixer->window) begin = length - mixer->window;
        read_row(q, qkv, at, heads * width, half);
        ready(q, heads, mixer, mixer->q_norm, round, row, swapped);
        for (each = 0; each < heads * width; each++) q[each] *= (float)mixer->scale;
        read_row(own, qkv, at + heads * width, 2 * kv_heads * width, half);
        ready(own, kv_heads, mixer, mixer->k_norm, round, row, swapped);
        write_row(keys, place, own, kv_heads * width, half);
        write_row(values, place, own + kv_heads * width, kv_heads * width, half);
        for (each = 0; each < heads * width; each++) sums[each] = 0;
        for (each = 0; each < heads; each++) most[each] = -INFINITY, sum[each] = 0;
        for (block = begin / BLOCK; block * BLOCK < length; block++) {
            number lowest = block * BLOCK < begin ? begin - block * BLOCK : 0;
            number count = (length - block * BLOCK < BLOCK ? length - block * BLOCK : BLOCK) - lowest;
            number base = (round->table[row * round->blocks + block] * BLOCK + lowest) * kv_heads * width;
            for (head = 0; head < kv_heads; head++) {
                number from = head * shared;
                for (each = 0; each < count; each++) {
                    read_row(k + each * width, keys, base + (each * kv_heads + head) * width, width, half);
                    read_row(v + each * width, values, base + (each * kv_heads + head) * width, width, half);
                }
                if (width == 64) /* a known number makes loops without ends to look out for */
                    attend_block(q + from * 64, sums + from * 64, most + from, sum + from, shared, k, v, count, 64);
                else if (width == 128)
                    attend_block(q + from * 128, sums + from * 128, most + from, sum + from, shared, k, v, count, 128);
                else
                    attend_block(q + from * width, sums + from * width, most + from, sum + from, shared, k, v, count, width);
            }
        }
        for (head = 0; head < heads; head++)
            for (each = 0; each < width; each++) sums[head * width + each] /= sum[head];
        write_row(out, row * heads * width, sums, heads * width, half);
    }
}

typedef struct {
    const Mixer *mixer;
    const Round *round;
    const void *qkv;
    void *keys, *values, *out;
} Attend;

/* Rows first..last of qkv, [rows, (heads + 2 kv_heads) * width], normed by head, rotated, their keys and values written
   to the cache, and attended: out, [rows, heads * width]. -1 where there is no memory. */
EXPORT int luthier_step_attend(const void *job, number first, number last) {
    const Attend c = *(const Attend *)job;
    const Mixer *mixer = c.mixer;
    size_t floats = (size_t)((2 * mixer->heads + 2 * mixer->kv_heads + 2 * BLOCK + 1) * mixer->width + 2 * mixer->heads);
    float *memory = malloc(floats * sizeof(float));
    if (!memory) return -1;
    attend_rows(mixer, c.round, c.qkv, c.keys, c.values, c.out, first, last, memory);
    free(memory);
    return 0;
}

/* ----------------------------------------------------------------------------------------------------- gate */

#define PIECE 256

/* m = silu(e) * g, of rows that hold e and then g. */
WIDTHS EXPORT void luthier_step_gate(const void *both, void *m, number rows, number width, int half) {
    number row, at, each;
    float e[PIECE], g[PIECE];
    for (row = 0; row < rows; row++)
        for (at = 0; at < width; at += PIECE) {
            number count = width - at < PIECE ? width - at : PIECE;
            read_row(e, both, 2 * row * width + at, count, half);
            read_row(g, both, (2 * row + 1) * width + at, count, half);
            for (each = 0; each < count; each++) e[each] = e[each] / (1.0f + exponential(-e[each])) * g[each];
            write_row(m, row * width + at, e, count, half);
        }
}
