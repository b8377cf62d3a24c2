/* The native kernels' plain C interface: no Python, no torch, so it compiles in seconds and breaks with neither.
 *
 * Guarantees: nothing here keeps a pointer after it returns, or reads or writes
 * outside the arrays given. Sums are float32. Functions return 0, -1 when this processor cannot
 * run them, or -2 when memory has run out.
 *
 * Letters: n rows, K inner size, N outer size, H hidden size, I intermediate size.
 */
#ifndef FOLKMOOT_KERNELS_H
#define FOLKMOOT_KERNELS_H

#include <stdint.h>

#define FOLKMOOT_KERNELS_ABI 1

#if defined(__GNUC__)
#define FOLKMOOT_EXPORT __attribute__((visibility("default")))
#else
#define FOLKMOOT_EXPORT
#endif

/* One expert and the n rows that go through it. */
typedef struct {
    const uint16_t *gate; /* [I, H] bfloat16 */
    const uint16_t *up;   /* [I, H] bfloat16 */
    const uint16_t *down; /* [H, I] bfloat16 */
    const int64_t *rows;  /* [n], none twice */
    const float *gates;   /* [n] */
    int64_t n;
} folkmoot_group;

/* FOLKMOOT_KERNELS_ABI of the library that was built. */
FOLKMOOT_EXPORT int folkmoot_abi(void);

/* 1 when this processor has what the bfloat16 kernels need, otherwise 0. */
FOLKMOOT_EXPORT int folkmoot_has_bf16(void);

/* y[n, N] = x[n, K] W[N, K]^T (+ bias[N], when it is not NULL); everything bfloat16 but the sums. */
FOLKMOOT_EXPORT int folkmoot_linear_bf16(const uint16_t *x, const uint16_t *w, const uint16_t *bias, uint16_t *y,
                                         int64_t n, int64_t N, int64_t K, int threads);

/* output[rows[j], :] += gates[j] * expert(hidden[rows[j], :]) for each group and each of its j; SwiGLU experts. */
FOLKMOOT_EXPORT int folkmoot_swiglu_bf16(const folkmoot_group *groups, int64_t group_count, const uint16_t *hidden,
                                         float *output, int64_t H, int64_t I, int threads);

/* Runs task(context, index, count) for index 0..count-1 at once and returns when all have returned. */
void folkmoot_parallel(void (*task)(void *context, int index, int count), void *context, int count);

#endif
