/* bfloat16 weights, float32 sums, on AVX512-BF16.
 *
 * Weights are read once, in address order, with a prefetch to L2 a page ahead and to L1 nearer by: at few rows that alone decides the speed. A block
 * of up to eight rows shares one pass over a weight row; more rows go block after block while the weight row is in L1.
 */
#include "folkmoot_kernels.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { BLOCK = 8, FAR_AHEAD = 4096, NEAR_AHEAD = 1024 };

INLINE __m512bh load(const uint16_t *from) { return (__m512bh)_mm512_loadu_si512(from); }
INLINE __m512bh load_part(__mmask32 mask, const uint16_t *from) {
    return (__m512bh)_mm512_maskz_loadu_epi16(mask, from);
}

/* Unrolled whole, so that sums stay in registers. */
#define UNROLLED _Pragma("GCC unroll 8")

/* Dot products of one weight row with `count` rows of x, `stride` elements apart. */
INLINE void dots(const uint16_t *w, const uint16_t *x, int64_t stride, int64_t K, float *out, const int count) {
    /* Few rows have too few sums to hide the instruction's latency: they keep several each. */
    const int parts = count == 1 ? 4 : count <= 4 ? 2 : 1;
    __m512 sums[BLOCK];
    UNROLLED for (int i = 0; i < count * parts; i++) sums[i] = _mm512_setzero_ps();
    int64_t k = 0;
    for (; k + 32 * parts <= K; k += 32 * parts) {
        UNROLLED for (int part = 0; part < parts; part++) {
            const int64_t at = k + 32 * part;
            _mm_prefetch((const char *)(w + at) + FAR_AHEAD, _MM_HINT_T2);
            _mm_prefetch((const char *)(w + at) + NEAR_AHEAD, _MM_HINT_T0);
            const __m512bh weight = load(w + at);
            UNROLLED for (int j = 0; j < count; j++) {
                sums[j * parts + part] = _mm512_dpbf16_ps(sums[j * parts + part], weight, load(x + j * stride + at));
            }
        }
    }
    for (; k < K; k += 32) {
        const __mmask32 mask = K - k >= 32 ? 0xffffffffu : (1u << (K - k)) - 1;
        const __m512bh weight = load_part(mask, w + k);
        UNROLLED for (int j = 0; j < count; j++) {
            sums[j * parts] = _mm512_dpbf16_ps(sums[j * parts], weight, load_part(mask, x + j * stride + k));
        }
    }
    UNROLLED for (int j = 0; j < count; j++) {
        __m512 sum = sums[j * parts];
        UNROLLED for (int part = 1; part < parts; part++) sum = _mm512_add_ps(sum, sums[j * parts + part]);
        out[j] = _mm512_reduce_add_ps(sum);
    }
}

TARGET static void dots_1(const uint16_t *w, const uint16_t *x, int64_t s, int64_t K, float *o) { dots(w, x, s, K, o, 1); }
TARGET static void dots_2(const uint16_t *w, const uint16_t *x, int64_t s, int64_t K, float *o) { dots(w, x, s, K, o, 2); }
TARGET static void dots_3(const uint16_t *w, const uint16_t *x, int64_t s, int64_t K, float *o) { dots(w, x, s, K, o, 3); }
TARGET static void dots_4(const uint16_t *w, const uint16_t *x, int64_t s, int64_t K, float *o) { dots(w, x, s, K, o, 4); }
TARGET static void dots_5(const uint16_t *w, const uint16_t *x, int64_t s, int64_t K, float *o) { dots(w, x, s, K, o, 5); }
TARGET static void dots_6(const uint16_t *w, const uint16_t *x, int64_t s, int64_t K, float *o) { dots(w, x, s, K, o, 6); }
TARGET static void dots_7(const uint16_t *w, const uint16_t *x, int64_t s, int64_t K, float *o) { dots(w, x, s, K, o, 7); }
TARGET static void dots_8(const uint16_t *w, const uint16_t *x, int64_t s, int64_t K, float *o) { dots(w, x, s, K, o, 8); }

typedef void (*dots_function)(const uint16_t *, const uint16_t *, int64_t, int64_t, float *);
static const dots_function dots_of[BLOCK + 1] = {0, dots_1, dots_2, dots_3, dots_4, dots_5, dots_6, dots_7, dots_8};

/* All n rows of x against one weight row: out[n]. */
static void row_dots(const uint16_t *w, const uint16_t *x, int64_t n, int64_t K, float *out) {
    for (int64_t j = 0; j < n; j += BLOCK) {
        const int count = (int)(n - j < BLOCK ? n - j : BLOCK);
        dots_of[count](w, x + j * K, K, K, out + j);
    }
}

static uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40); /* a NaN stays one */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

static float from_bf16(uint16_t value) {
    const uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, 4);
    return result;
}

static void share(int64_t size, int index, int count, int64_t *begin, int64_t *end) {
    *begin = size * index / count;
    *end = size * (index + 1) / count;
}

typedef struct {
    const uint16_t *x, *w, *bias;
    uint16_t *y;
    int64_t n, N, K;
} linear_job;

static void linear_task(void *context, int index, int count) {
    const linear_job *job = context;
    int64_t begin, end;
    float sums[256];
    share(job->N, index, count, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        const uint16_t *w = job->w + i * job->K;
        const float bias = job->bias ? from_bf16(job->bias[i]) : 0.0f;
        for (int64_t j = 0; j < job->n; j += 256) {
            const int64_t rows = job->n - j < 256 ? job->n - j : 256;
            row_dots(w, job->x + j * job->K, rows, job->K, sums);
            for (int64_t r = 0; r < rows; r++) job->y[(j + r) * job->N + i] = to_bf16(sums[r] + bias);
        }
    }
}

int folkmoot_linear_bf16(const uint16_t *x, const uint16_t *w, const uint16_t *bias, uint16_t *y, int64_t n, int64_t N,
                         int64_t K, int threads) {
    linear_job job = {x, w, bias, y, n, N, K};
    if (!folkmoot_has_bf16()) return -1;
    folkmoot_parallel(linear_task, &job, threads);
    return 0;
}

/* exp(x) to float32's last bits but one or two: 2^n times a polynomial. */
INLINE __m512 exponential(__m512 x) {
    const __m512 limit = _mm512_set1_ps(88.0f);
    x = _mm512_max_ps(_mm512_min_ps(x, limit), _mm512_sub_ps(_mm512_setzero_ps(), limit));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

/* inner[i] = bfloat16(silu(gate[i]) * up[i]) */
TARGET static void activate(const float *gate, const float *up, uint16_t *inner, int64_t size) {
    const __m512 one = _mm512_set1_ps(1.0f);
    for (int64_t i = 0; i < size; i += 16) {
        const __mmask16 mask = size - i >= 16 ? 0xffff : (__mmask16)((1u << (size - i)) - 1);
        const __m512 g = _mm512_maskz_loadu_ps(mask, gate + i), u = _mm512_maskz_loadu_ps(mask, up + i);
        const __m512 denominator = _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), g)));
        const __m512 value = _mm512_mul_ps(_mm512_div_ps(g, denominator), u);
        _mm256_mask_storeu_epi16(inner + i, mask, (__m256i)_mm512_cvtneps_pbh(value));
    }
}

typedef struct {
    const folkmoot_group *group;
    const uint16_t *x; /* [n, H], the group's rows side by side */
    float *gate, *up;  /* [I, n] */
    uint16_t *inner;   /* [n, I] */
    float *output;
    int64_t H, I;
} swiglu_job;

static void gate_up_task(void *context, int index, int count) {
    const swiglu_job *job = context;
    const int64_t n = job->group->n;
    int64_t begin, end;
    share(job->I, index, count, &begin, &end);
    for (int64_t i = begin; i < end; i++) row_dots(job->group->gate + i * job->H, job->x, n, job->H, job->gate + i * n);
    for (int64_t i = begin; i < end; i++) row_dots(job->group->up + i * job->H, job->x, n, job->H, job->up + i * n);
}

TARGET static void spread(const swiglu_job *job, uint16_t *flat) {
    const int64_t n = job->group->n, I = job->I;
    activate(job->gate, job->up, flat, n * I);
    if (n == 1) return;
    for (int64_t i = 0; i < I; i++)
        for (int64_t j = 0; j < n; j++) job->inner[j * I + i] = flat[i * n + j];
}

static void down_task(void *context, int index, int count) {
    const swiglu_job *job = context;
    const folkmoot_group *group = job->group;
    int64_t begin, end;
    float sums[256];
    share(job->H, index, count, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        const uint16_t *w = group->down + i * job->I;
        for (int64_t j = 0; j < group->n; j += 256) {
            const int64_t rows = group->n - j < 256 ? group->n - j : 256;
            row_dots(w, job->inner + j * job->I, rows, job->I, sums);
            for (int64_t r = 0; r < rows; r++) {
                job->output[group->rows[j + r] * job->H + i] += group->gates[j + r] * sums[r];
            }
        }
    }
}

int folkmoot_swiglu_bf16(const folkmoot_group *groups, int64_t group_count, const uint16_t *hidden, float *output,
                         int64_t H, int64_t I, int threads) {
    if (!folkmoot_has_bf16()) return -1;
    int64_t most = 0;
    for (int64_t g = 0; g < group_count; g++) most = groups[g].n > most ? groups[g].n : most;
    if (most == 0) return 0;
    const size_t row_bytes = (size_t)H * 2 + (size_t)I * (4 + 4 + 2 + 2);
    char *scratch = malloc((size_t)most * row_bytes);
    if (scratch == NULL) return -2;
    float *gate = (float *)scratch, *up = gate + most * I;
    uint16_t *flat = (uint16_t *)(up + most * I), *inner = flat + most * I, *x = inner + most * I;
    for (int64_t g = 0; g < group_count; g++) {
        const int64_t n = groups[g].n;
        if (n == 0) continue;
        for (int64_t j = 0; j < n; j++) memcpy(x + j * H, hidden + groups[g].rows[j] * H, (size_t)H * 2);
        swiglu_job job = {&groups[g], x, gate, up, n == 1 ? flat : inner, output, H, I};
        folkmoot_parallel(gate_up_task, &job, threads);
        spread(&job, flat);
        folkmoot_parallel(down_task, &job, threads);
    }
    free(scratch);
    return 0;
}

int folkmoot_has_bf16(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16");
}

#else /* another processor: torch computes */

int folkmoot_linear_bf16(const uint16_t *x, const uint16_t *w, const uint16_t *bias, uint16_t *y, int64_t n, int64_t N,
                         int64_t K, int threads) {
    (void)x, (void)w, (void)bias, (void)y, (void)n, (void)N, (void)K, (void)threads;
    return -1;
}

int folkmoot_swiglu_bf16(const folkmoot_group *groups, int64_t group_count, const uint16_t *hidden, float *output,
                         int64_t H, int64_t I, int threads) {
    (void)groups, (void)group_count, (void)hidden, (void)output, (void)H, (void)I, (void)threads;
    return -1;
}

int folkmoot_has_bf16(void) { return 0; }

#endif

int folkmoot_abi(void) { return FOLKMOOT_KERNELS_ABI; }
