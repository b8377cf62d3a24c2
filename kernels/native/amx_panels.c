/* Products of small whole numbers by panels, by the matrix tiles of AMX: int8 by group and by channel, int4, mxfp4.
 *
 * Each of these numbers is a bfloat16 exactly. What a panel has of 32 inputs becomes one tile of pairs of inputs, without
 * anything crossing from one output to another; every 16 rows of inputs meet it as a tile of their own. What belongs to one scale
 * is summed by tiles in float32, and scaled and added for 16 outputs at a time.
 */
#include "backend.h"

#ifdef FOLKMOOT_HAS_TILES

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq"))), apply_to = function)
#else
#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq")
#endif

#include "amx.h"

/* Inputs that are unpacked at a time. */
enum { PIECE = 512, GROUPS = PIECE / DEPTH, MOST_PANELS = 16, FAR_AHEAD = 4096, NEAR_AHEAD = 1024 };

typedef struct {
    uint16_t values[GROUPS][DEPTH / 2][SIDE][2]; /* bfloat16, two inputs of each output */
    float scales[GROUPS][SIDE], minima[GROUPS][SIDE];
    float sums[4][SIDE][SIDE];
    float totals[MOST_PANELS][SIDE][SIDE]; /* rows by outputs */
} __attribute__((aligned(64))) workshop;

/* Rows of 32 inputs each, of the 16 rows of a panel one after another: that is one tile. Rows that are missing in the last
 * panel count as zeros. After the terms come the sums of each 32 inputs. */
static void pack_row(const float *x, int64_t K, int64_t row, int64_t n, int terms, char *packed) {
    const int64_t place = row % SIDE, missing = row + 1 == n ? SIDE - 1 - place : 0;
    char *panel = packed + row / SIDE * folkmoot_panel_bytes(K, terms);
    float *sums = (float *)(panel + terms * SIDE * K * 2) + place;
    for (int64_t k = 0; k < K; k += DEPTH, sums += SIDE) {
        __m512 low = _mm512_loadu_ps(x + k), high = _mm512_loadu_ps(x + k + 16);
        *sums = _mm512_reduce_add_ps(_mm512_add_ps(low, high));
        for (int64_t i = 1; i <= missing; i++) sums[i] = 0.0f;
        for (int term = 0; term < terms; term++) {
            char *to = panel + term * SIDE * K * 2 + k / DEPTH * TILE_BYTES + place * LINE;
            const __m512i low_bits = rounded(low), high_bits = rounded(high);
            _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(_mm512_srli_epi32(low_bits, 16)));
            _mm256_storeu_si256((__m256i *)to + 1, _mm512_cvtepi32_epi16(_mm512_srli_epi32(high_bits, 16)));
            memset(to + LINE, 0, (size_t)(missing * LINE));
            low = left_out(low, low_bits), high = left_out(high, high_bits);
        }
    }
}

INLINE __m512 byte_as_float(__m512i bytes, const int byte) {
    const __m512i top = byte == 3 ? bytes : _mm512_slli_epi32(bytes, 24 - 8 * byte);
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(top, 24));
}

/* Two whole numbers of each output, as a pair of bfloat16. */
INLINE __m512i int8_pair(__m512i bytes, const int pair) {
    const __m512i first = _mm512_castps_si512(byte_as_float(bytes, 2 * pair)), second = _mm512_castps_si512(byte_as_float(bytes, 2 * pair + 1));
    return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(first, 16), second);
}

/* Both halves of one byte of each output, looked up: the fifth bit of an index is of the next half, so the table is there twice. */
INLINE __m512i pair_of_halves(__m512i bytes, const int byte, __m512i table) {
    const __m512i low = byte ? _mm512_srli_epi32(bytes, 8 * byte) : bytes;
    const __m512i high = 12 - 8 * byte > 0 ? _mm512_slli_epi32(bytes, 12 - 8 * byte) : _mm512_srli_epi32(bytes, 8 * byte - 12);
    return _mm512_permutexvar_epi16(_mm512_mask_blend_epi16(0xaaaaaaaau, low, high), table);
}

/* One group of 16 outputs as a tile. */
INLINE void unpack_group(const int format, const char *from, __m512i table, uint16_t (*to)[SIDE][2]) {
    const int halves = format == FOLKMOOT_INT4 || format == FOLKMOOT_MXFP4;
    for (int v = 0; v < (halves ? 4 : 8); v++) {
        const char *at = from + v * LINE;
        _mm_prefetch(at + FAR_AHEAD, _MM_HINT_T1);
        _mm_prefetch(at + NEAR_AHEAD, _MM_HINT_T0);
        const __m512i bytes = _mm512_loadu_si512(at);
        if (halves) {
            _mm512_store_si512(to[4 * v], pair_of_halves(bytes, 0, table));
            _mm512_store_si512(to[4 * v + 1], pair_of_halves(bytes, 1, table));
            _mm512_store_si512(to[4 * v + 2], pair_of_halves(bytes, 2, table));
            _mm512_store_si512(to[4 * v + 3], pair_of_halves(bytes, 3, table));
        } else {
            _mm512_store_si512(to[2 * v], int8_pair(bytes, 0));
            _mm512_store_si512(to[2 * v + 1], int8_pair(bytes, 1));
        }
    }
}

/* Inputs k ... k + count - 1 of 16 outputs, with their scales and minima. */
INLINE void unpack(const int format, const folkmoot_matrix *w, int64_t row, int64_t k, int64_t count, workshop *at) {
    const int halves = format == FOLKMOOT_INT4 || format == FOLKMOOT_MXFP4, group_bytes = SIDE * DEPTH / (halves ? 2 : 1);
    const __m512i table = table_of(format == FOLKMOOT_INT4 ? WHOLE : E2M1);
    const char *values = (const char *)w->values + row * w->step + k / DEPTH * group_bytes;
    const int64_t first = row * w->scale_step + k / DEPTH * SIDE;
    for (int64_t g = 0; g < count / DEPTH; g++) {
        unpack_group(format, values + g * group_bytes, table, at->values[g]);
        if (format == FOLKMOOT_MXFP4) _mm512_store_ps(at->scales[g], halved_e8m0(_mm_loadu_si128((const __m128i *)((const char *)w->scales + first + g * SIDE))));
        if (format == FOLKMOOT_INT8 || format == FOLKMOOT_INT4) _mm512_store_ps(at->scales[g], halves_at((const uint16_t *)w->scales + first + g * SIDE));
        if (format == FOLKMOOT_INT4) _mm512_store_ps(at->minima[g], halves_at((const uint16_t *)w->minima + first + g * SIDE));
    }
}

/* The sum over `span` groups of 16 outputs, into tile and sums `slot`. */
#define SUM_GROUPS(slot, span)                                                                                         \
    do {                                                                                                               \
        _tile_zero(slot);                                                                                              \
        for (int64_t inner = 0; inner < (span); inner++) {                                                             \
            _tile_loadd(4, at->values[g + (slot) + inner], LINE);                                                      \
            for (int term = 0; term < terms; term++) {                                                                 \
                _tile_loadd(5, inputs + term * SIDE * K * 2 + (g + (slot) + inner) * TILE_BYTES, LINE);                \
                _tile_dpbf16ps(slot, 5, 4);                                                                            \
            }                                                                                                          \
        }                                                                                                              \
        _tile_stored(slot, at->sums[slot], LINE);                                                                      \
    } while (0)

/* Adds what inputs k ... k + count - 1 bring to the totals of one panel of inputs, of which `rows` rows exist. */
INLINE void add_piece(const int format, int64_t K, int64_t k, int64_t count, const char *panel, int terms, int64_t rows, workshop *at,
                      float (*totals)[SIDE]) {
    const char *inputs = panel + k / DEPTH * TILE_BYTES;
    const float *input_sums = (const float *)(panel + terms * SIDE * K * 2) + k / DEPTH * SIDE;
    const int64_t groups = count / DEPTH;
    if (format == FOLKMOOT_INT8_CHANNEL) {
        const int64_t g = 0;
        SUM_GROUPS(0, groups);
        for (int64_t j = 0; j < rows; j++) _mm512_store_ps(totals[j], _mm512_add_ps(_mm512_load_ps(totals[j]), _mm512_load_ps(at->sums[0][j])));
        return;
    }
    for (int64_t g = 0; g < groups; g += 4) {
        const int64_t together = at_most(groups - g, 4);
        SUM_GROUPS(0, 1);
        if (together > 1) SUM_GROUPS(1, 1);
        if (together > 2) SUM_GROUPS(2, 1);
        if (together > 3) SUM_GROUPS(3, 1);
        __m512 scales[4], minima[4];
        for (int s = 0; s < 4; s++) {
            const int there = s < together;
            scales[s] = there ? _mm512_load_ps(at->scales[g + s]) : _mm512_setzero_ps();
            minima[s] = there && format == FOLKMOOT_INT4 ? _mm512_load_ps(at->minima[g + s]) : _mm512_setzero_ps();
        }
        for (int64_t j = 0; j < rows; j++) {
            __m512 total = _mm512_load_ps(totals[j]);
            for (int s = 0; s < together; s++) {
                total = _mm512_fmadd_ps(_mm512_load_ps(at->sums[s][j]), scales[s], total);
                if (format == FOLKMOOT_INT4) total = _mm512_fmadd_ps(minima[s], _mm512_set1_ps(input_sums[(g + s) * SIDE + j]), total);
            }
            _mm512_store_ps(totals[j], total);
        }
    }
}

INLINE void panel_products(const int format, const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x, float *out) {
    const int64_t n = x->n, K = x->K, panel_bytes = folkmoot_panel_bytes(K, x->terms), panels = (n + SIDE - 1) / SIDE;
    workshop at;
    configure();
    for (int64_t i = begin; i < end; i += SIDE) {
        memset(at.totals, 0, (size_t)panels * sizeof *at.totals);
        for (int64_t k = 0; k < K; k += PIECE) {
            const int64_t count = at_most(K - k, PIECE);
            unpack(format, w, i, k, count, &at);
            for (int64_t p = 0; p < panels; p++) {
                add_piece(format, K, k, count, x->data + p * panel_bytes, x->terms, at_most(n - p * SIDE, SIDE), &at, at.totals[p]);
            }
        }
        for (int64_t j = 0; j < n; j++) {
            __m512 total = _mm512_load_ps(at.totals[j / SIDE][j % SIDE]);
            if (format == FOLKMOOT_INT8_CHANNEL) total = _mm512_mul_ps(total, _mm512_loadu_ps((const float *)w->scales + i));
            _mm512_storeu_ps(out + j * (end - begin) + i - begin, total);
        }
    }
    _tile_release();
}

static void int8_products(const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x, float *out) {
    panel_products(FOLKMOOT_INT8, w, begin, end, x, out);
}
static void int8_channel_products(const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x, float *out) {
    panel_products(FOLKMOOT_INT8_CHANNEL, w, begin, end, x, out);
}
static void int4_products(const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x, float *out) {
    panel_products(FOLKMOOT_INT4, w, begin, end, x, out);
}
static void mxfp4_products(const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x, float *out) {
    panel_products(FOLKMOOT_MXFP4, w, begin, end, x, out);
}

const folkmoot_tiles folkmoot_amx_panels = {
    .pack_row = pack_row,
    .products =
        {
            [FOLKMOOT_INT8] = int8_products,
            [FOLKMOOT_INT8_CHANNEL] = int8_channel_products,
            [FOLKMOOT_INT4] = int4_products,
            [FOLKMOOT_MXFP4] = mxfp4_products,
        },
    .fewest =
        {
            [FOLKMOOT_INT8] = 12,
            [FOLKMOOT_INT8_CHANNEL] = 12,
            [FOLKMOOT_INT4] = 9,
            [FOLKMOOT_MXFP4] = 9,
        },
};

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
