/* Attention over the segments of a flat batch on a CPU, forward and backward, in one pass over each tile of queries.

What goes in: queries, keys and values of all rows, float32 or bfloat16, and which segment sees which. What comes out:
attended values, or the gradients. `swept.py` is the only caller; it says what each argument is. All arithmetic is
float32; results are rounded once. Nothing but what went in is needed for the backward pass: probabilities are formed
again, a tile of queries against all of its keys at a time.

A unit of work is one key/value head of one family of segments (a root and all that see it), with all query heads that
share it: no two units write to the same place and none reads what another wrote, so the bits do not depend on how many
threads take them.

Every product is C += A B with rows of B along the vectors. A block of ROWS by a few vectors of C stays in registers. */

#include "numbers.h"

#include <math.h>

#define ROWS 6
#define TILE 24 /* queries: four blocks. Half a tile of scores a head is for nothing at the diagonal */

#pragma GCC diagnostic ignored "-Wpsabi" /* every function that takes a vector is laid into its caller */

typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t whole __attribute__((vector_size(64)));

EXPORT uint32_t luthier_attend_source(void) { return SOURCE; }
EXPORT int luthier_attend_lanes(void) { return LANES; }

typedef struct {
    const void *rows;
    number row, head; /* strides */
} View;

typedef struct {
    number heads, kv_heads, width, half;
    number window; /* 0 for none */
    double scale;
    View q, k, v, dout;
    void *out, *dk, *dv;      /* out: of the queries, [U, heads, width]; the others [N, kv_heads, width] */
    const number *start, *end; /* rows of each segment; families one after another, parents before children */
    const number *parent;      /* of each segment; -1 for none */
    const number *at;          /* where its rows begin among those of its family */
    const number *first, *last; /* of each segment, those queries that are its own */
    const number *asked;       /* the row of each query; NULL where every row asks */
    const number *family;      /* the first segment of each, and one more: their number */
    const number *unit;        /* in which order they are taken */
    number units, next;        /* of those that threads share, the first that is not taken yet */
    number threads, floats;    /* threads that have begun; what each needs */
    float *memory;             /* of all threads */
} Job;

/* ------------------------------------------------------------------------------------------------- products */

/* rows by vecs * LANES of C (+)= A B, over `depth`; A[i][k] lies at a[i * a_row + k * a_column]. */
INLINE void block(const int rows, const int vecs, const float *a, number a_row, number a_column, const float *b, number b_row, number depth, float *c, number c_row, int add) {
    vec sum[ROWS][4];
    number k;
    int i, j;
    for (i = 0; i < rows; i++)
        for (j = 0; j < vecs; j++) sum[i][j] = add ? *(const vec *)(c + i * c_row + j * LANES) : (vec){0};
    for (k = 0; k < depth; k++) {
        vec line[4];
        for (j = 0; j < vecs; j++) line[j] = *(const vec *)(b + k * b_row + j * LANES);
        for (i = 0; i < rows; i++) {
            float one = a[i * a_row + k * a_column];
            for (j = 0; j < vecs; j++) sum[i][j] += one * line[j];
        }
    }
    for (i = 0; i < rows; i++)
        for (j = 0; j < vecs; j++) *(vec *)(c + i * c_row + j * LANES) = sum[i][j];
}

INLINE void strip(const int vecs, const float *a, number a_row, number a_column, const float *b, number b_row, number rows, number depth, float *c, number c_row, int add) {
    number i = 0;
    for (; i + ROWS <= rows; i += ROWS) block(ROWS, vecs, a + i * a_row, a_row, a_column, b, b_row, depth, c + i * c_row, c_row, add);
    a += i * a_row, c += i * c_row;
    switch (rows - i) {
    case 5: block(5, vecs, a, a_row, a_column, b, b_row, depth, c, c_row, add); break;
    case 4: block(4, vecs, a, a_row, a_column, b, b_row, depth, c, c_row, add); break;
    case 3: block(3, vecs, a, a_row, a_column, b, b_row, depth, c, c_row, add); break;
    case 2: block(2, vecs, a, a_row, a_column, b, b_row, depth, c, c_row, add); break;
    case 1: block(1, vecs, a, a_row, a_column, b, b_row, depth, c, c_row, add); break;
    }
}

/* C[rows, columns] (+)= A[rows, depth] B[depth, columns]; up to LANES - 1 columns more are written. */
typedef void (*Product)(const float *a, number a_row, number a_column, const float *b, number b_row, number rows, number columns, number depth, float *c, number c_row, int add);

INLINE void product_of(const int vecs, const float *a, number a_row, number a_column, const float *b, number b_row, number rows, number columns, number depth, float *c, number c_row, int add) {
    number j = 0;
    for (; j + vecs * LANES <= columns; j += vecs * LANES) strip(vecs, a, a_row, a_column, b + j, b_row, rows, depth, c + j, c_row, add);
    for (; j < columns; j += LANES) strip(1, a, a_row, a_column, b + j, b_row, rows, depth, c + j, c_row, add);
}

/* ---------------------------------------------------------------------------------------------- probabilities */

INLINE vec chosen(whole mask, vec one, vec other) {
    return (vec)((mask & (whole)one) | (~mask & (whole)other));
}

/* All ones where x < 0. By the sign: GCC 12 takes a comparison of such vectors apart, lane by lane, four times as slow. */
INLINE whole negative(vec x) { return (whole)x >> 31; }

INLINE vec many(float value) { return (vec){0} + value; }

/* e^x to 2 units in the last place for x <= 0 (Cephes' polynomial); 0 below the least normal number. */
INLINE vec exponentials(vec x) {
    whole least = negative(x + 87.0f);
    vec held = chosen(least, many(-87.0f), x), moved = held * 1.44269504f + 12582912.0f;
    vec times = moved - 12582912.0f, r = held - times * 0.693359375f + times * 2.12194440e-4f, p = many(1.9875691500e-4f);
    whole power = ((whole)moved << 23) + (127 << 23);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (vec)(~least & (whole)(p * (vec)power));
}

INLINE float sum_of(vec lanes) {
    float total = 0;
    int each;
    for (each = 0; each < LANES / 2; each++) total += lanes[each] + lanes[each + LANES / 2];
    return total;
}

/* e^(score - largest) of columns first..last of a row, 0 in the others up to `columns`, a multiple of LANES. Gives the
   sum. */
INLINE float exponentiate(float *row, number first, number last, number columns) {
    const whole lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vec most = many(-INFINITY), sum = {0};
    float largest = -INFINITY;
    number at, begin = first / LANES * LANES;
    int each;
    for (at = 0; at < begin; at += LANES) *(vec *)(row + at) = (vec){0};
    for (at = begin; at < last; at += LANES) {
        whole there = ~((lane + (int32_t)(at - first)) >> 31) & ((lane + (int32_t)(at - last)) >> 31);
        vec score = chosen(there, *(vec *)(row + at), many(-INFINITY));
        *(vec *)(row + at) = score;
        most = chosen(negative(score - most), most, score);
    }
    for (each = 0; each < LANES; each++) largest = larger(largest, most[each]);
    for (at = begin; at < last; at += LANES) {
        vec value = exponentials(*(vec *)(row + at) - largest);
        *(vec *)(row + at) = value;
        sum += value;
    }
    for (; at < columns; at += LANES) *(vec *)(row + at) = (vec){0};
    return sum_of(sum);
}

/* ------------------------------------------------------------------------------------------------------ units */

typedef struct {
    float *k, *k_turned, *v, *v_turned, *dk, *dv; /* [T, width], turned [width, T] */
    float *q, *dout, *made;                       /* [TILE, width] */
    float *p, *ds;                                /* [TILE, T] */
    float *line;
    number turned; /* length of a turned row */
} Memory;

INLINE number rounded(number count) { return (count + LANES - 1) / LANES * LANES; }

static number floats(number rows, number width, int backward) {
    number across = rounded(rows) + LANES, down = rows * width + LANES;
    return (backward ? 4 : 2) * down + (backward ? 2 : 1) * width * across + (backward ? 3 : 2) * TILE * width + (backward ? 2 : 1) * TILE * across + width;
}

static Memory parted(float *memory, number rows, number width, int backward) {
    number across = rounded(rows) + LANES, down = rows * width + LANES;
    Memory m;
    m.turned = across;
    m.k = memory, memory += backward ? down : 0;
    m.v = memory, memory += down;
    m.k_turned = memory, memory += width * across;
    m.q = memory, memory += TILE * width;
    m.made = memory, memory += TILE * width;
    m.p = memory, memory += TILE * across;
    m.line = memory, memory += width;
    m.v_turned = m.dk = m.dv = m.dout = m.ds = NULL;
    if (backward) {
        m.v_turned = memory, memory += width * across;
        m.dk = memory, memory += down;
        m.dv = memory, memory += down;
        m.dout = memory, memory += TILE * width;
        m.ds = memory;
    }
    return m;
}

INLINE void read_head(float *to, const View *view, number row, number head, number width, int half) {
    read_row(to, view->rows, row * view->row + head * view->head, width, half);
}

INLINE void turn(float *to, const float *row, number at, number length, number width) {
    number each;
    for (each = 0; each < width; each++) to[each * length + at] = row[each];
}

INLINE void read_family(const Job *job, Memory *m, number family, number head, int backward) {
    number segment, row, at, width = job->width;
    int half = (int)job->half;
    for (segment = job->family[family]; segment < job->family[family + 1]; segment++)
        for (row = job->start[segment], at = job->at[segment]; row < job->end[segment]; row++, at++) {
            float *line = backward ? m->k + at * width : m->line;
            read_head(line, &job->k, row, head, width, half);
            turn(m->k_turned, line, at, m->turned, width);
            read_head(m->v + at * width, &job->v, row, head, width, half);
            if (backward) turn(m->v_turned, m->v + at * width, at, m->turned, width);
        }
}

/* Ranges of a family's rows that a segment sees, eldest first: `depth` of them, as (begin, end), in `path`. */
#define DEPTH 64

INLINE number path_of(const Job *job, number segment, number (*path)[2]) {
    number depth = 0, each, up;
    for (up = segment; up >= 0; up = job->parent[up]) depth++;
    if (depth > DEPTH) return -1;
    for (each = depth, up = segment; up >= 0; up = job->parent[up]) {
        each--;
        path[each][0] = job->at[up];
        path[each][1] = job->at[up] + job->end[up] - job->start[up];
    }
    return depth;
}

/* The part low..high of a path's rows laid end to end, in place. Gives how many ranges are left. */
INLINE number clip(number (*path)[2], number depth, number low, number high, number (*kept)[2]) {
    number passed = 0, count = 0, each;
    for (each = 0; each < depth; each++) {
        number length = path[each][1] - path[each][0], first = low - passed, last = high - passed;
        if (first < 0) first = 0;
        if (last > length) last = length;
        if (first < last) {
            kept[count][0] = path[each][0] + first;
            kept[count][1] = path[each][0] + last;
            count++;
        }
        passed += length;
    }
    return count;
}

INLINE void forward_unit(Product product, const number width, const Job *job, number unit, float *memory) {
    number family = unit / job->kv_heads, kv_head = unit % job->kv_heads, shared = job->heads / job->kv_heads;
    number last_segment = job->family[family + 1] - 1, rows = job->at[last_segment] + job->end[last_segment] - job->start[last_segment];
    number segment, head, first, each, piece, path[DEPTH][2], seen[DEPTH][2];
    int half = (int)job->half;
    Memory m = parted(memory, rows, width, 0);
    read_family(job, &m, family, kv_head, 0);
    for (segment = job->family[family]; segment <= last_segment; segment++) {
        number depth = path_of(job, segment, path), before = 0;
        for (each = 0; each + 1 < depth; each++) before += path[each][1] - path[each][0];
        for (head = kv_head * shared; head < (kv_head + 1) * shared; head++)
            for (first = job->first[segment]; first < job->last[segment]; first += TILE) {
                number count = job->last[segment] - first < TILE ? job->last[segment] - first : TILE, place[TILE], low = 0, pieces, at = 0;
                float sums[TILE];
                for (each = 0; each < count; each++) {
                    number row = job->asked ? job->asked[first + each] : first + each;
                    number query = first + each, n;
                    float *q = m.q + each * width;
                    place[each] = before + row - job->start[segment];
                    read_head(q, &job->q, query, head, width, half);
                    for (n = 0; n < width; n++) q[n] *= (float)job->scale;
                }
                if (job->window && place[0] + 1 > job->window) low = place[0] + 1 - job->window;
                pieces = clip(path, depth, low, place[count - 1] + 1, seen);
                for (piece = 0; piece < pieces; piece++) {
                    number length = seen[piece][1] - seen[piece][0];
                    product(m.q, width, 1, m.k_turned + seen[piece][0], m.turned, count, length, width, m.p + at, m.turned, 0);
                    at += length;
                }
                for (each = 0; each < count; each++) {
                    number from = job->window && place[each] + 1 > job->window ? place[each] + 1 - job->window : 0;
                    sums[each] = exponentiate(m.p + each * m.turned, from - low, place[each] + 1 - low, rounded(at));
                }
                for (piece = 0, at = 0; piece < pieces; piece++) {
                    number length = seen[piece][1] - seen[piece][0];
                    product(m.p + at, m.turned, 1, m.v + seen[piece][0] * width, width, count, width, length, m.made, width, piece > 0);
                    at += length;
                }
                for (each = 0; each < count; each++) {
                    number n;
                    for (n = 0; n < width; n++) m.made[each * width + n] /= sums[each];
                    write_row(job->out, ((first + each) * job->heads + head) * width, m.made + each * width, width, half);
                }
            }
    }
}

INLINE void backward_unit(Product product, const number width, const Job *job, number unit, float *memory) {
    number family = unit / job->kv_heads, kv_head = unit % job->kv_heads, shared = job->heads / job->kv_heads;
    number last_segment = job->family[family + 1] - 1, rows = job->at[last_segment] + job->end[last_segment] - job->start[last_segment];
    number segment, head, first, each, piece, n, path[DEPTH][2], seen[DEPTH][2];
    int half = (int)job->half;
    Memory m = parted(memory, rows, width, 1);
    read_family(job, &m, family, kv_head, 1);
    memset(m.dk, 0, (size_t)(rows * width) * sizeof(float));
    memset(m.dv, 0, (size_t)(rows * width) * sizeof(float));
    for (segment = job->family[family]; segment <= last_segment; segment++) {
        number depth = path_of(job, segment, path), before = 0;
        for (each = 0; each + 1 < depth; each++) before += path[each][1] - path[each][0];
        for (head = kv_head * shared; head < (kv_head + 1) * shared; head++)
            for (first = job->first[segment]; first < job->last[segment]; first += TILE) {
                number count = job->last[segment] - first < TILE ? job->last[segment] - first : TILE, place[TILE], low = 0, pieces, at = 0, columns;
                for (each = 0; each < count; each++) {
                    number row = job->asked ? job->asked[first + each] : first + each;
                    float *q = m.q + each * width;
                    place[each] = before + row - job->start[segment];
                    read_head(q, &job->q, first + each, head, width, half);
                    for (n = 0; n < width; n++) q[n] *= (float)job->scale;
                    read_head(m.dout + each * width, &job->dout, first + each, head, width, half);
                }
                if (job->window && place[0] + 1 > job->window) low = place[0] + 1 - job->window;
                pieces = clip(path, depth, low, place[count - 1] + 1, seen);
                for (piece = 0; piece < pieces; piece++) {
                    number length = seen[piece][1] - seen[piece][0];
                    product(m.q, width, 1, m.k_turned + seen[piece][0], m.turned, count, length, width, m.p + at, m.turned, 0);
                    product(m.dout, width, 1, m.v_turned + seen[piece][0], m.turned, count, length, width, m.ds + at, m.turned, 0);
                    at += length;
                }
                columns = rounded(at);
                for (each = 0; each < count; each++) {
                    number from = job->window && place[each] + 1 > job->window ? place[each] + 1 - job->window : 0;
                    float *p = m.p + each * m.turned, *ds = m.ds + each * m.turned, delta;
                    float over = 1.0f / exponentiate(p, from - low, place[each] + 1 - low, columns);
                    vec sum = {0};
                    /* beyond `at` lie sums of nothing that was given: times a probability of 0 they must not be nan */
                    for (n = at; n < columns; n++) ds[n] = 0;
                    for (n = 0; n < columns; n += LANES) {
                        vec probability = *(vec *)(p + n) * over;
                        *(vec *)(p + n) = probability;
                        sum += probability * *(vec *)(ds + n);
                    }
                    delta = sum_of(sum);
                    for (n = 0; n < columns; n += LANES) *(vec *)(ds + n) = *(vec *)(p + n) * (*(vec *)(ds + n) - delta);
                }
                for (piece = 0, at = 0; piece < pieces; piece++) {
                    number length = seen[piece][1] - seen[piece][0], from = seen[piece][0] * width;
                    product(m.p + at, 1, m.turned, m.dout, width, length, width, count, m.dv + from, width, 1);
                    product(m.ds + at, 1, m.turned, m.q, width, length, width, count, m.dk + from, width, 1);
                    product(m.ds + at, m.turned, 1, m.k + from, width, count, width, length, m.made, width, piece > 0);
                    at += length;
                }
                for (each = 0; each < count; each++) {
                    for (n = 0; n < width; n++) m.made[each * width + n] *= (float)job->scale;
                    write_row(job->out, ((first + each) * job->heads + head) * width, m.made + each * width, width, half);
                }
            }
    }
    for (segment = job->family[family]; segment <= last_segment; segment++)
        for (each = job->start[segment], n = job->at[segment]; each < job->end[segment]; each++, n++) {
            number to = (each * job->kv_heads + kv_head) * width;
            write_row(job->dk, to, m.dk + n * width, width, half);
            write_row(job->dv, to, m.dv + n * width, width, half);
        }
}

typedef void (*Unit)(const Job *, number, float *);

/* The functions of one kind of processor: VECS vectors of a block's rows fit its registers. A known width makes loops
   without ends to look out for. */
#define KIND(NAME, VECS, TARGET) \
    TARGET static void product_##NAME(const float *a, number a_row, number a_column, const float *b, number b_row, number rows, number columns, number depth, float *c, number c_row, int add) { \
        product_of(VECS, a, a_row, a_column, b, b_row, rows, columns, depth, c, c_row, add); \
    } \
    TARGET static void forward_##NAME(const Job *job, number unit, float *memory) { \
        if (job->width == 64) forward_unit(product_##NAME, 64, job, unit, memory); \
        else forward_unit(product_##NAME, job->width, job, unit, memory); \
    } \
    TARGET static void backward_##NAME(const Job *job, number unit, float *memory) { \
        if (job->width == 64) backward_unit(product_##NAME, 64, job, unit, memory); \
        else backward_unit(product_##NAME, job->width, job, unit, memory); \
    }

KIND(plain, 1, )
#ifdef SEVERAL_WIDTHS
KIND(v3, 1, __attribute__((target("arch=x86-64-v3"))))
KIND(v4, 4, __attribute__((target("arch=x86-64-v4,prefer-vector-width=512"))))
#endif

static Unit of_this_processor(int backward) {
#ifdef SEVERAL_WIDTHS
    if (__builtin_cpu_supports("x86-64-v4")) return backward ? backward_v4 : forward_v4;
    if (__builtin_cpu_supports("x86-64-v3")) return backward ? backward_v3 : forward_v3;
#endif
    return backward ? backward_plain : forward_plain;
}

/* Floats that a thread needs for families of so many rows. */
EXPORT number luthier_attend_floats(number rows, number width, int backward) { return floats(rows, width, backward); }

/* Called by each of the threads that share the units, with memory of its own, until none is left. */
INLINE void take_units(Job *job, Unit does) {
    float *memory = job->memory + __atomic_fetch_add(&job->threads, 1, __ATOMIC_RELAXED) * job->floats;
    number taken;
    while ((taken = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->units) does(job, job->unit[taken], memory);
}

EXPORT void luthier_attend_forward(void *job) { take_units(job, of_this_processor(0)); }
EXPORT void luthier_attend_backward(void *job) { take_units(job, of_this_processor(1)); }
