/* Products of small whole numbers by panels, on AVX512 with VNNI: int8 by group and by channel, int4, mxfp4.
 *
 * A vector of a panel has four bytes of each of 16 outputs, so every step adds to 16 sums at once, nothing is added across a
 * vector, and a group of 32 inputs costs one scaling for 16 outputs. Inputs were packed as whole numbers of 16 bits with one
 * float32 scale a group, which loses less than 2^-15 of a group's largest input, in two bytes: weights are multiplied by both,
 * and what the bytes bring is added and scaled exactly as one number would be.
 */
#if defined(__x86_64__) && defined(__GNUC__)

#include "backend.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 16")
/* What is asked for comes between computations, one line at a time: compilers would put all of a group's at its beginning, where they
 * hold each other up, and a tenth of the speed is lost. */
#define IN_ORDER() __asm__ volatile("" ::: "memory")

#include "scales_avx512.h"

enum { GROUP = 32, SIDE = FOLKMOOT_ROWS, MOST_ROWS = 4, VECTOR = 64, MOST = 127 * 256 + 127 };

/* How far ahead values and scales are asked for; measured. */
enum { VALUES_FAR = 4096, VALUES_NEAR = 1536, SCALES_FAR = 2048, SCALES_NEAR = 256 };

/* A packed row of inputs: for each group the upper bytes of its 32 numbers, then the lower ones, all signed; then for each group
 * its scale; then for each group what its sums begin with (int32), or with int4, what its minima are multiplied by (float32). */
typedef struct {
    const char *bytes;
    const float *scales, *rest;
} packed_row;

INLINE packed_row row_of(const folkmoot_inputs *x, int64_t j) {
    const char *bytes = x->data + j * x->step;
    const float *scales = (const float *)(bytes + 2 * x->K);
    return (packed_row){bytes, scales, scales + x->K / GROUP};
}

INLINE int of_halves(const int format) { return format == FOLKMOOT_INT4 || format == FOLKMOOT_MXFP4; }

/* What is added to weights so that they are not negative, as the instruction wants one of its sides. */
INLINE int shift_of(const int format) { return format == FOLKMOOT_INT4 ? 0 : format == FOLKMOOT_MXFP4 ? 12 : 128; }

/* Neighbours of 8 numbers of 4 bits lie in one byte: the even ones come first, as they do out of the weights. */
INLINE __m256i in_order(__m256i numbers, const int format) {
    const __m256i halves = _mm256_set_epi8(15, 13, 11, 9, 14, 12, 10, 8, 7, 5, 3, 1, 6, 4, 2, 0, 15, 13, 11, 9, 14, 12, 10, 8, 7, 5, 3, 1, 6,
                                           4, 2, 0);
    return of_halves(format) ? _mm256_shuffle_epi8(numbers, halves) : numbers;
}

INLINE __m256i as_bytes(__m512i first, __m512i second) {
    return _mm256_set_m128i(_mm512_cvtepi32_epi8(second), _mm512_cvtepi32_epi8(first));
}

/* An infinity or NaN makes its group's scale NaN, and so every sum. */
static void pack(int format, const float *x, int64_t K, void *packed) {
    const int64_t groups = K / GROUP;
    const __m512i half = _mm512_set1_epi32(128);
    char *bytes = packed;
    float *scales = (float *)(bytes + 2 * K), *rest = scales + groups;
    for (int64_t g = 0; g < groups; g++, x += GROUP, bytes += 2 * GROUP) {
        const __m512 first = _mm512_loadu_ps(x), second = _mm512_loadu_ps(x + 16);
        const __m512i sizes = _mm512_max_epi32(_mm512_castps_si512(_mm512_abs_ps(first)), _mm512_castps_si512(_mm512_abs_ps(second)));
        const int32_t largest = _mm512_reduce_max_epi32(sizes);
        float most;
        memcpy(&most, &largest, 4);
        const int finite = largest < 0x7f800000, any = finite && most > 1e-30f;
        /* Where nothing can be scaled all are zeros: also what is no number, and a multiplication would keep. */
        const __mmask16 kept = any ? 0xffff : 0;
        const __m512 inverse = _mm512_set1_ps(any ? (float)MOST / most : 0.0f);
        const __m512i a = _mm512_maskz_cvtps_epi32(kept, _mm512_mul_ps(first, inverse));
        const __m512i b = _mm512_maskz_cvtps_epi32(kept, _mm512_mul_ps(second, inverse));
        const __m512i upper_a = _mm512_srai_epi32(_mm512_add_epi32(a, half), 8), upper_b = _mm512_srai_epi32(_mm512_add_epi32(b, half), 8);
        const __m512i lower_a = _mm512_sub_epi32(a, _mm512_slli_epi32(upper_a, 8)), lower_b = _mm512_sub_epi32(b, _mm512_slli_epi32(upper_b, 8));
        _mm256_storeu_si256((__m256i *)bytes, in_order(as_bytes(upper_a, upper_b), format));
        _mm256_storeu_si256((__m256i *)(bytes + GROUP), in_order(as_bytes(lower_a, lower_b), format));
        const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(a, b)), start = -shift_of(format) * sum;
        scales[g] = !finite ? NAN : any ? most / (float)MOST : 0.0f;
        if (format == FOLKMOOT_INT4) rest[g] = scales[g] * (float)sum;
        else memcpy(rest + g, &start, 4);
    }
}

/* Four inputs of every output, all not negative; `half` 1 are those in the upper halves of their bytes. */
INLINE __m512i weights_of(const int format, __m512i bytes, const int half) {
    const __m512i low = _mm512_set1_epi8(15);
    /* The sixteen numbers of e2m1, doubled, and 12 more. */
    const __m512i e2m1 = _mm512_broadcast_i32x4(_mm_set_epi8(0, 4, 6, 8, 9, 10, 11, 12, 24, 20, 18, 16, 15, 14, 13, 12));
    if (!of_halves(format)) return _mm512_xor_si512(bytes, _mm512_set1_epi8((char)0x80));
    const __m512i numbers = _mm512_and_si512(half ? _mm512_srli_epi16(bytes, 4) : bytes, low);
    return format == FOLKMOOT_MXFP4 ? _mm512_shuffle_epi8(e2m1, numbers) : numbers;
}

/* The scales of one group of 16 outputs. */
INLINE __m512 group_scales(const int format, const char *from) {
    return format == FOLKMOOT_MXFP4 ? halved_e8m0(_mm_loadu_si128((const __m128i *)from)) : halves_at(from);
}

INLINE __m512i four_inputs(const char *bytes) {
    int32_t four;
    memcpy(&four, bytes, 4);
    return _mm512_set1_epi32(four);
}

INLINE __m512i whole(const float *from) { return four_inputs((const char *)from); }

INLINE void ask_for(const char *at, const int far, const int near) {
    _mm_prefetch(at + far, _MM_HINT_T1);
    _mm_prefetch(at + near, _MM_HINT_T0);
}

/* One group of 16 outputs with `count` rows of x. */
INLINE void add_group(const int format, const char *values, const char *scales, const char *minima, int64_t g, const packed_row *x,
                      __m512 *totals, const int count) {
    const int halves = of_halves(format) ? 2 : 1, vectors = 8 / halves;
    __m512i upper[MOST_ROWS], lower[MOST_ROWS];
    UNROLLED for (int j = 0; j < count; j++) {
        upper[j] = _mm512_setzero_si512();
        lower[j] = shift_of(format) ? whole(x[j].rest + g) : _mm512_setzero_si512();
    }
    UNROLLED for (int v = 0; v < vectors; v++) {
        IN_ORDER();
        ask_for(values + v * VECTOR, VALUES_FAR, VALUES_NEAR);
        IN_ORDER();
        const __m512i bytes = _mm512_loadu_si512(values + v * VECTOR);
        UNROLLED for (int half = 0; half < halves; half++) {
            const __m512i weights = weights_of(format, bytes, half);
            UNROLLED for (int j = 0; j < count; j++) {
                const char *inputs = x[j].bytes + g * 2 * GROUP + (v * halves + half) * 4;
                upper[j] = _mm512_dpbusd_epi32(upper[j], weights, four_inputs(inputs));
                lower[j] = _mm512_dpbusd_epi32(lower[j], weights, four_inputs(inputs + GROUP));
            }
        }
    }
    UNROLLED for (int j = 0; j < count; j++) {
        __m512 scale = _mm512_set1_ps(x[j].scales[g]);
        if (format != FOLKMOOT_INT8_CHANNEL) scale = _mm512_mul_ps(scale, group_scales(format, scales));
        if (format == FOLKMOOT_INT4) totals[j] = _mm512_fmadd_ps(halves_at(minima), _mm512_set1_ps(x[j].rest[g]), totals[j]);
        const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(upper[j], 8), lower[j]);
        totals[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, totals[j]);
    }
}

/* One panel with `count` rows of x: out[j * width] and the 15 after it. */
INLINE void panel(const int format, const folkmoot_matrix *w, int64_t row, int64_t K, const packed_row *x, float *out, int64_t width,
                  const int count) {
    const int scale_bytes = SIDE * (format == FOLKMOOT_MXFP4 ? 1 : 2), value_bytes = SIDE * GROUP / (of_halves(format) ? 2 : 1);
    const int scaled = format != FOLKMOOT_INT8_CHANNEL;
    const char *values = (const char *)w->values + row * w->step;
    const char *scales = scaled ? (const char *)w->scales + row * w->scale_step * (scale_bytes / SIDE) : NULL;
    const char *minima = format == FOLKMOOT_INT4 ? (const char *)w->minima + row * w->scale_step * 2 : NULL;
    __m512 totals[MOST_ROWS];
    UNROLLED for (int j = 0; j < count; j++) totals[j] = _mm512_setzero_ps();
    for (int64_t g = 0; g < K / GROUP; g++) {
        /* Once a line. */
        if (scaled && g * scale_bytes % VECTOR == 0) {
            ask_for(scales, SCALES_FAR, SCALES_NEAR);
            if (format == FOLKMOOT_INT4) ask_for(minima, SCALES_FAR, SCALES_NEAR);
        }
        add_group(format, values, scales, minima, g, x, totals, count);
        values += value_bytes;
        if (scaled) scales += scale_bytes;
        if (format == FOLKMOOT_INT4) minima += scale_bytes;
    }
    UNROLLED for (int j = 0; j < count; j++) {
        if (!scaled) totals[j] = _mm512_mul_ps(totals[j], _mm512_loadu_ps((const float *)w->scales + row));
        _mm512_storeu_ps(out + j * width, totals[j]);
    }
}

typedef void (*panel_function)(const folkmoot_matrix *, int64_t, int64_t, const packed_row *, float *, int64_t);

#define PANEL(name, format, count)                                                                                     \
    static void name##_##count(const folkmoot_matrix *w, int64_t row, int64_t K, const packed_row *x, float *out,      \
                               int64_t width) {                                                                        \
        panel(format, w, row, K, x, out, width, count);                                                                \
    }

#define PANEL_PRODUCTS(name, format)                                                                                   \
    PANEL(name, format, 1) PANEL(name, format, 2) PANEL(name, format, 3) PANEL(name, format, 4)                        \
    static void name(const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x, float *out) {     \
        static const panel_function panels[] = {0, name##_1, name##_2, name##_3, name##_4};                            \
        panel_products(w, begin, end, x, out, panels);                                                                 \
    }

/* A panel stays in cache while all of x passes, a few rows at a time. */
static void panel_products(const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x, float *out,
                           const panel_function *panels) {
    const int64_t width = end - begin;
    for (int64_t row = begin; row < end; row += SIDE) {
        for (int64_t j = 0; j < x->n; j += MOST_ROWS) {
            const int count = x->n - j < MOST_ROWS ? (int)(x->n - j) : MOST_ROWS;
            packed_row rows[MOST_ROWS];
            for (int i = 0; i < count; i++) rows[i] = row_of(x, j + i);
            panels[count](w, row, x->K, rows, out + j * width + row - begin, width);
        }
    }
}

PANEL_PRODUCTS(int8_products, FOLKMOOT_INT8)
PANEL_PRODUCTS(int8_channel_products, FOLKMOOT_INT8_CHANNEL)
PANEL_PRODUCTS(int4_products, FOLKMOOT_INT4)
PANEL_PRODUCTS(mxfp4_products, FOLKMOOT_MXFP4)

const folkmoot_panels folkmoot_avx512_panels = {
    .pack = pack,
    .products =
        {
            [FOLKMOOT_INT8] = int8_products,
            [FOLKMOOT_INT8_CHANNEL] = int8_channel_products,
            [FOLKMOOT_INT4] = int4_products,
            [FOLKMOOT_MXFP4] = mxfp4_products,
        },
};

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
