/* Vectors of 16 lanes, on AVX512 with VNNI. */
#include <immintrin.h>

typedef __m512 floats;
typedef __m512i ints;

enum {
    LANES = 16,
    MOST_ROWS_AT_ONCE = 8, /* x rows that one weight row meets at once, so that all sums have a register */
    TALL = 4               /* weight rows read side by side where x does not fit the first cache */
};

INLINE floats zeros(void) { return _mm512_setzero_ps(); }
INLINE floats all_of(float value) { return _mm512_set1_ps(value); }
INLINE floats load_floats(const void *from) { return _mm512_loadu_ps(from); }
INLINE void store_floats(void *to, floats a) { _mm512_storeu_ps(to, a); }
INLINE floats add(floats a, floats b) { return _mm512_add_ps(a, b); }
INLINE floats sub(floats a, floats b) { return _mm512_sub_ps(a, b); }
INLINE floats mul(floats a, floats b) { return _mm512_mul_ps(a, b); }
INLINE floats divide(floats a, floats b) { return _mm512_div_ps(a, b); }
INLINE floats multiply_add(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
/* b where either is not a number. */
INLINE floats least(floats a, floats b) { return _mm512_min_ps(a, b); }
INLINE floats most(floats a, floats b) { return _mm512_max_ps(a, b); }
INLINE float sum_of(floats a) { return _mm512_reduce_add_ps(a); }
INLINE floats nearest(floats a) { return _mm512_roundscale_ps(a, 8); }
/* 2^n for whole n that a float can hold. */
INLINE floats power_of_two(floats n) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), n); }

INLINE ints no_ints(void) { return _mm512_setzero_si512(); }
INLINE ints load_ints(const void *from) { return _mm512_loadu_si512(from); }
INLINE ints either(ints a, ints b) { return _mm512_xor_si512(a, b); }
INLINE floats to_floats(ints a) { return _mm512_cvtepi32_ps(a); }

INLINE floats even_bfloat16(ints a) { return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)); }
INLINE floats odd_bfloat16(ints a) {
    return _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32((int)0xffff0000u)));
}
INLINE floats load_float16(const void *from) { return _mm512_cvtph_ps(_mm256_loadu_si256(from)); }
INLINE void store_float16(void *to, floats a) { _mm256_storeu_si256(to, _mm512_cvtps_ph(a, 0)); }
/* Byte `part` of each lane as e4m3, times 2^-120. */
INLINE floats fp8_part(ints a, const int part) {
    const ints top = part == 3 ? a : _mm512_slli_epi32(a, 24 - 8 * part);
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_srai_epi32(top, 4), _mm512_set1_epi32((int)0x87f00000u)));
}

/* Lane by lane: c plus the products of two neighbouring int16. */
INLINE ints add_products(ints c, ints a, ints b) { return _mm512_dpwssd_epi32(c, a, b); }
/* As many int8 as there are int16 in a vector. */
INLINE ints widen_int8(const void *from) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256(from)); }
/* Four bits of each int16: `part` 0 is the lowest. */
INLINE ints nibbles(ints a, const int part) {
    const ints low = part == 0 ? a : _mm512_srli_epi16(a, 4 * part);
    return part == 3 ? low : _mm512_and_si512(low, _mm512_set1_epi16(15));
}
/* The same four bits as e2m1, doubled: whole numbers. */
INLINE ints nibbles_e2m1(ints a, const int part) {
    /* The index's fifth bit is of the next nibble: the table is there twice. */
    const ints table = _mm512_set_epi16(-12, -8, -6, -4, -3, -2, -1, 0, 12, 8, 6, 4, 3, 2, 1, 0, -12, -8, -6, -4, -3, -2,
                                        -1, 0, 12, 8, 6, 4, 3, 2, 1, 0);
    return _mm512_permutexvar_epi16(part == 0 ? a : _mm512_srli_epi16(a, 4 * part), table);
}
/* A quarter of the lanes, each four times over. */
INLINE floats spread_quarter(floats a, const int quarter) {
    const ints index = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    return _mm512_permutexvar_ps(_mm512_add_epi32(index, _mm512_set1_epi32(4 * quarter)), a);
}
/* 2^(scale - 128) of e8m0 bytes; below what a float can hold as a normal number, 0. */
INLINE floats load_half_e8m0(const uint8_t *from) {
    const ints wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from)), one = _mm512_set1_epi32(1);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_sub_epi32(_mm512_max_epi32(wide, one), one), 23));
}
