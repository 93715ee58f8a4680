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
