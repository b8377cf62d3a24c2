/* What the files that compute by tiles share; they include it once their target is set. */
#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#include "scales_avx512.h"

enum { SIDE = FOLKMOOT_TILE_ROWS, DEPTH = FOLKMOOT_TILE_INPUTS, LINE = 64, TILE_BYTES = SIDE * LINE };

/* All eight tiles are of 16 rows of 64 bytes. A constant: compilers think that only its first bytes are read, and leave out what
 * else a variable would be given. */
INLINE void configure(void) {
    static const struct {
        uint8_t palette, start, reserved[14];
        uint16_t columns[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) shape = {
        .palette = 1, .columns = {LINE, LINE, LINE, LINE, LINE, LINE, LINE, LINE}, .rows = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE}};
    _tile_loadconfig(&shape);
}

/* Turns 16 outputs by 16 rows into 16 rows by 16 outputs, and stores as many of them as exist, `width` apart. */
INLINE void place(const float *tile, float *out, int64_t width, int64_t outputs, int64_t rows) {
    __m512 a[SIDE], b[SIDE];
    for (int i = 0; i < SIDE; i++) a[i] = _mm512_load_ps(tile + i * SIDE);
    for (int i = 0; i < SIDE; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < SIDE; i += 4) {
        for (int half = 0; half < 2; half++) {
            const __m512d low = _mm512_castps_pd(b[i + half]), high = _mm512_castps_pd(b[i + half + 2]);
            a[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            a[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
    /* a[4 q + r] has in its four quarters the columns r, r + 4, r + 8 and r + 12 of rows 4 q ... 4 q + 3. */
    for (int r = 0; r < 4; r++) {
        const __m512 even = _mm512_shuffle_f32x4(a[r], a[4 + r], 0x88), odd = _mm512_shuffle_f32x4(a[r], a[4 + r], 0xdd);
        const __m512 even2 = _mm512_shuffle_f32x4(a[8 + r], a[12 + r], 0x88), odd2 = _mm512_shuffle_f32x4(a[8 + r], a[12 + r], 0xdd);
        b[r] = _mm512_shuffle_f32x4(even, even2, 0x88);
        b[4 + r] = _mm512_shuffle_f32x4(odd, odd2, 0x88);
        b[8 + r] = _mm512_shuffle_f32x4(even, even2, 0xdd);
        b[12 + r] = _mm512_shuffle_f32x4(odd, odd2, 0xdd);
    }
    const __mmask16 exist = (__mmask16)((1u << outputs) - 1);
    for (int64_t j = 0; j < rows; j++) _mm512_mask_storeu_ps(out + j * width, exist, b[j]);
}

static inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

/* The bits of the nearest bfloat16s, above 16 zeros. */
INLINE __m512i rounded(__m512 x) {
    const __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    return _mm512_and_si512(_mm512_mask_mov_epi32(sum, nan, quiet), _mm512_set1_epi32((int)0xffff0000));
}

/* What `taken` leaves out of x; nothing of an infinity, whose rest is not a number. */
INLINE __m512 left_out(__m512 x, __m512i taken) {
    const __m512 left = _mm512_sub_ps(x, _mm512_castsi512_ps(taken));
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(left, left, _CMP_ORD_Q), left);
}

INLINE __m512i table_of(const uint16_t *sixteen) {
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)sixteen));
}

/* 0 ... 15, and the sixteen e2m1 numbers doubled. */
static const uint16_t WHOLE[16] = {0,      0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
                                   0x4100, 0x4110, 0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170};
static const uint16_t E2M1[16] = {0,      0x3f80, 0x4000, 0x4040, 0x4080, 0x40c0, 0x4100, 0x4140,
                                  0x8000, 0xbf80, 0xc000, 0xc040, 0xc080, 0xc0c0, 0xc100, 0xc140};
