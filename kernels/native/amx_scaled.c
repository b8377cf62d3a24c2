/* Products of small numbers with scales by the matrix tiles of AMX: int8 by group and by channel, int4, mxfp4, and e4m3.
 *
 * Each of these numbers is a bfloat16 exactly. A block of 16 outputs is unpacked piece by piece, and every panel of inputs
 * meets it: what belongs to one scale is summed by tiles in float32, and scaled and added as float32 vectors. So the cost of
 * unpacking is shared by all rows, and nothing is rounded that the format does not round.
 */
#include "backend.h"

#ifdef FOLKMOOT_HAS_TILES

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq"))), apply_to = function)
#else
#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq")
#endif

#include "amx.h"

/* Inputs that are unpacked at a time; those of one scale are 32, or all 128 of an e4m3 square, or a whole piece by channel. */
enum { PIECE = 1024, GROUPS = PIECE / DEPTH, SQUARE = 128, MOST_PANELS = 16, FAR_AHEAD = 4096, NEAR_AHEAD = 1024 };

typedef struct {
    uint16_t values[SIDE][PIECE]; /* bfloat16 */
    float scales[SIDE][GROUPS], minima[SIDE][GROUPS];
    float sums[4][SIDE][SIDE];
    float totals[MOST_PANELS][SIDE][SIDE]; /* outputs by rows */
} __attribute__((aligned(64))) workshop;

/* 32 numbers as bfloat16, from the two halves of 16 whole numbers each. */
INLINE __m512i whole_numbers(__m512i first, __m512i second) {
    const __m512i upper = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23, 21, 19,
                                           17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_epi16(_mm512_castps_si512(_mm512_cvtepi32_ps(first)), upper,
                                     _mm512_castps_si512(_mm512_cvtepi32_ps(second)));
}

INLINE __m512i int8_numbers(const char *from) {
    const __m128i *at = (const __m128i *)from;
    return whole_numbers(_mm512_cvtepi8_epi32(_mm_loadu_si128(at)), _mm512_cvtepi8_epi32(_mm_loadu_si128(at + 1)));
}

/* Each byte's two halves, low half first, looked up: the fifth bit of an index is of the next half, so the table is there twice. */
INLINE __m512i half_bytes(const char *from, __m512i table) {
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
    return _mm512_permutexvar_epi16(_mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12)), table);
}

/* e4m3: with an exponent of 0 the mantissa counts alone, which tiles would take for nothing as it stands. */
INLINE __m512i e4m3_numbers(const char *from) {
    static const uint16_t SMALL[8] = {0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60}; /* m * 2^-9 */
    const __m512i bytes = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)from));
    const __m512i magnitude = _mm512_and_si512(bytes, _mm512_set1_epi16(0x7f));
    const __m512i sign = _mm512_and_si512(_mm512_slli_epi16(bytes, 8), _mm512_set1_epi16((short)0x8000));
    /* The exponent's bias goes from 7 to 127. */
    const __m512i normal = _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4), _mm512_set1_epi16(120 << 7));
    const __mmask32 is_small = _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(8));
    const __m512i small = _mm512_permutexvar_epi16(magnitude, _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)SMALL)));
    return _mm512_or_si512(sign, _mm512_mask_mov_epi16(normal, is_small, small));
}

INLINE int64_t value_bytes(const int format, int64_t inputs) {
    return format == FOLKMOOT_INT4 || format == FOLKMOOT_MXFP4 ? inputs / 2 : inputs;
}

/* Unpacks inputs k ... k + count - 1 of some outputs; those that do not exist are zeros. */
INLINE void unpack(const int format, const folkmoot_matrix *w, int64_t row, int64_t outputs, int64_t k, int64_t count, workshop *at) {
    const __m512i table = table_of(format == FOLKMOOT_INT4 ? WHOLE : E2M1);
    for (int64_t i = 0; i < SIDE; i++) {
        if (i >= outputs) {
            memset(at->values[i], 0, (size_t)count * 2);
            continue;
        }
        const char *from = (const char *)w->values + (row + i) * w->step + value_bytes(format, k);
        for (int64_t g = 0; g < count; g += DEPTH) {
            const char *here = from + value_bytes(format, g);
            __m512i numbers;
            if (value_bytes(format, g) % LINE == 0) {
                _mm_prefetch(here + FAR_AHEAD, _MM_HINT_T2);
                _mm_prefetch(here + NEAR_AHEAD, _MM_HINT_T0);
            }
            if (format == FOLKMOOT_INT4 || format == FOLKMOOT_MXFP4) numbers = half_bytes(here, table);
            else if (format == FOLKMOOT_FP8_BLOCK) numbers = e4m3_numbers(here);
            else numbers = int8_numbers(here);
            _mm512_store_si512(&at->values[i][g], numbers);
        }
    }
}

/* The scales of the same inputs, and minima. */
INLINE void unpack_scales(const int format, const folkmoot_matrix *w, int64_t row, int64_t outputs, int64_t k, int64_t count,
                          workshop *at) {
    enum { FEW = 16 };
    const int64_t groups = count / DEPTH;
    for (int64_t i = 0; i < outputs; i++) {
        const int64_t begin = (row + i) * w->scale_step + k / DEPTH;
        for (int64_t g = 0; g < groups; g += FEW) {
            const __mmask16 exist = (__mmask16)(groups - g < FEW ? (1u << (groups - g)) - 1 : 0xffff);
            if (format == FOLKMOOT_MXFP4) {
                const __m128i bytes = _mm_maskz_loadu_epi8(exist, (const char *)w->scales + begin + g);
                _mm512_store_ps(at->scales[i] + g, halved_e8m0(bytes));
                continue;
            }
            const uint16_t *scales = (const uint16_t *)w->scales + begin + g, *minima = (const uint16_t *)w->minima + begin + g;
            _mm512_store_ps(at->scales[i] + g, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(exist, scales)));
            if (format == FOLKMOOT_INT4) _mm512_store_ps(at->minima[i] + g, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(exist, minima)));
        }
    }
}

/* One tile's sum over inputs k ... k + span - 1, `at` those of the workshop, into tile and sums `slot`. */
#define SUM_SPAN(slot)                                                                                                 \
    do {                                                                                                               \
        _tile_zero(slot);                                                                                              \
        for (int64_t inner = 0; inner < span; inner += DEPTH) {                                                        \
            _tile_loadd(4, &at->values[0][g + (slot) * span + inner], PIECE * 2);                                      \
            for (int term = 0; term < terms; term++) {                                                                 \
                _tile_loadd(5, panel + term * SIDE * K * 2 + (k + g + (slot) * span + inner) * 2 * SIDE, LINE);        \
                _tile_dpbf16ps(slot, 4, 5);                                                                            \
            }                                                                                                          \
        }                                                                                                              \
        _tile_stored(slot, at->sums[slot], LINE);                                                                      \
    } while (0)

/* Adds what a piece brings to the totals of one panel. */
INLINE void add_piece(const int format, const folkmoot_matrix *w, int64_t row, int64_t K, int64_t k, int64_t count, const char *panel,
                      int terms, workshop *at, float (*totals)[SIDE]) {
    const float *input_sums = (const float *)(panel + terms * SIDE * K * 2) + k / DEPTH * SIDE;
    __m512 total[SIDE];
    for (int i = 0; i < SIDE; i++) total[i] = _mm512_load_ps(totals[i]);
    if (format == FOLKMOOT_FP8_BLOCK || format == FOLKMOOT_INT8_CHANNEL) {
        const int64_t most = format == FOLKMOOT_FP8_BLOCK ? SQUARE : PIECE;
        for (int64_t g = 0; g < count; g += most) {
            const int64_t span = at_most(count - g, most);
            SUM_SPAN(0);
            float scale = 1.0f;
            if (format == FOLKMOOT_FP8_BLOCK) scale = ((const float *)w->scales)[row / SQUARE * w->scale_step + (k + g) / SQUARE];
            for (int i = 0; i < SIDE; i++) total[i] = _mm512_fmadd_ps(_mm512_load_ps(at->sums[0][i]), _mm512_set1_ps(scale), total[i]);
        }
    } else {
        const int64_t span = DEPTH;
        for (int64_t g = 0; g < count; g += 4 * DEPTH) {
            const int64_t together = at_most((count - g) / DEPTH, 4);
            SUM_SPAN(0);
            if (together > 1) SUM_SPAN(1);
            if (together > 2) SUM_SPAN(2);
            if (together > 3) SUM_SPAN(3);
            for (int64_t slot = 0; slot < together; slot++) {
                const int64_t group = g / DEPTH + slot;
                const __m512 sums = _mm512_loadu_ps(input_sums + group * SIDE);
                for (int i = 0; i < SIDE; i++) {
                    total[i] = _mm512_fmadd_ps(_mm512_load_ps(at->sums[slot][i]), _mm512_set1_ps(at->scales[i][group]), total[i]);
                    if (format == FOLKMOOT_INT4) total[i] = _mm512_fmadd_ps(sums, _mm512_set1_ps(at->minima[i][group]), total[i]);
                }
            }
        }
    }
    for (int i = 0; i < SIDE; i++) _mm512_store_ps(totals[i], total[i]);
}

INLINE void scaled_products(const int format, const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x,
                            float *out) {
    const int64_t n = x->n, K = x->K, panel_bytes = folkmoot_panel_bytes(K, x->terms), panels = (n + SIDE - 1) / SIDE;
    workshop at;
    memset(at.scales, 0, sizeof at.scales);
    memset(at.minima, 0, sizeof at.minima);
    configure();
    for (int64_t i = begin; i < end; i += SIDE) {
        const int64_t outputs = at_most(end - i, SIDE);
        memset(at.totals, 0, (size_t)panels * sizeof *at.totals);
        for (int64_t k = 0; k < K; k += PIECE) {
            const int64_t count = at_most(K - k, PIECE);
            unpack(format, w, i, outputs, k, count, &at);
            if (format != FOLKMOOT_FP8_BLOCK && format != FOLKMOOT_INT8_CHANNEL) unpack_scales(format, w, i, outputs, k, count, &at);
            for (int64_t p = 0; p < panels; p++) {
                add_piece(format, w, i, K, k, count, x->data + p * panel_bytes, x->terms, &at, at.totals[p]);
            }
        }
        if (format == FOLKMOOT_INT8_CHANNEL) {
            for (int64_t r = 0; r < outputs; r++) {
                const __m512 scale = _mm512_set1_ps(((const float *)w->scales)[(i + r) * w->scale_step]);
                for (int64_t p = 0; p < panels; p++) _mm512_store_ps(at.totals[p][r], _mm512_mul_ps(scale, _mm512_load_ps(at.totals[p][r])));
            }
        }
        for (int64_t p = 0; p < panels; p++) {
            place(at.totals[p][0], out + p * SIDE * (end - begin) + i - begin, end - begin, outputs, at_most(n - p * SIDE, SIDE));
        }
    }
    _tile_release();
}

FOLKMOOT_AMX_PRODUCTS(fp8) { scaled_products(FOLKMOOT_FP8_BLOCK, w, begin, end, x, out); }
FOLKMOOT_AMX_PRODUCTS(int8) { scaled_products(FOLKMOOT_INT8, w, begin, end, x, out); }
FOLKMOOT_AMX_PRODUCTS(int8_channel) { scaled_products(FOLKMOOT_INT8_CHANNEL, w, begin, end, x, out); }
FOLKMOOT_AMX_PRODUCTS(int4) { scaled_products(FOLKMOOT_INT4, w, begin, end, x, out); }
FOLKMOOT_AMX_PRODUCTS(mxfp4) { scaled_products(FOLKMOOT_MXFP4, w, begin, end, x, out); }

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
