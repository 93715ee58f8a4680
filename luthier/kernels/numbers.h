/* What the compiled parts of this folder share: rows of float32 or bfloat16, read as float32 and rounded once when written.

Plain C99 without Python's headers: the parts are loaded by ctypes. Loops are written for compilers to make vectors of;
GCC on x86 makes one version for each width of these and takes the one that the processor has. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define SEVERAL_WIDTHS
#define WIDTHS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDTHS
#endif

#ifdef __GNUC__
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#ifndef SOURCE
#define SOURCE 0
#endif

typedef int64_t number;

INLINE float widened(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* To the nearest, ties to even. */
INLINE uint16_t narrowed(float value) {
    uint32_t bits, rounded;
    memcpy(&bits, &value, 4);
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7FFFFFFF) > 0x7F800000 ? (bits >> 16 | 0x40) : rounded);
}

INLINE void read_row(float *to, const void *from, number at, number count, int half) {
    number each;
    if (half) {
        const uint16_t *row = (const uint16_t *)from + at;
        for (each = 0; each < count; each++) to[each] = widened(row[each]);
    } else {
        memcpy(to, (const float *)from + at, (size_t)count * sizeof(float));
    }
}

INLINE void write_row(void *to, number at, const float *from, number count, int half) {
    number each;
    if (half) {
        uint16_t *row = (uint16_t *)to + at;
        for (each = 0; each < count; each++) row[each] = narrowed(from[each]);
    } else {
        memcpy((float *)to + at, from, (size_t)count * sizeof(float));
    }
}

INLINE float larger(float one, float other) { return one > other ? one : other; }

#define LANES 16

INLINE float total(float *sums) {
    int each;
    for (each = 0; each < 8; each++) sums[each] += sums[each + 8];
    for (each = 0; each < 4; each++) sums[each] += sums[each + 4];
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

INLINE float dot(const float *one, const float *other, number count) {
    float sums[LANES] = {0}, rest = 0;
    number at = 0;
    int lane;
    for (; at + LANES <= count; at += LANES)
        for (lane = 0; lane < LANES; lane++) sums[lane] += one[at + lane] * other[at + lane];
    for (; at < count; at++) rest += one[at] * other[at];
    return total(sums) + rest;
}

/* e^x to 2 units in the last place (Cephes' polynomial); 0 below the least normal number. */
INLINE float exponential(float x) {
    float held = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float moved = held * 1.44269504f + 12582912.0f, times = moved - 12582912.0f; /* to the nearest whole number */
    float r = held - times * 0.693359375f + times * 2.12194440e-4f, p = 1.9875691500e-4f, power;
    uint32_t bits = (uint32_t)((int32_t)times + 127) << 23;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    memcpy(&power, &bits, 4);
    return x < -87.0f ? 0.0f : p * power;
}

/* Rows that threads share: all call `take` and do one part after another until none is left (`team.py`). Which thread
   does which part is left to chance, so what a row gives must not depend on others. */
typedef struct {
    int (*does)(const void *job, number first, number last); /* not 0 where there is no memory */
    const void *job;
    number rows, parts, next, failed;
} Shared;

INLINE void take(void *given) {
    Shared *shared = given;
    number part, rows = shared->rows, parts = shared->parts;
    while ((part = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED)) < parts)
        if (shared->does(shared->job, rows * part / parts, rows * (part + 1) / parts))
            __atomic_store_n(&shared->failed, 1, __ATOMIC_RELAXED);
}
