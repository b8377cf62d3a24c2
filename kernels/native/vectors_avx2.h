/* Vectors of 8 lanes, on AVX2 with FMA and F16C. */
#include <immintrin.h>

typedef __m256 floats;
typedef __m256i ints;

enum {
    LANES = 8,
    MOST_ROWS_AT_ONCE = 8, /* x rows that one weight row meets at once, so that all sums have a register */
    TALL = 2               /* weight rows read side by side where x does not fit the first cache */
};

INLINE floats zeros(void) { return _mm256_setzero_ps(); }
INLINE floats all_of(float value) { return _mm256_set1_ps(value); }
INLINE floats load_floats(const void *from) { return _mm256_loadu_ps(from); }
INLINE void store_floats(void *to, floats a) { _mm256_storeu_ps(to, a); }
INLINE floats add(floats a, floats b) { return _mm256_add_ps(a, b); }
INLINE floats sub(floats a, floats b) { return _mm256_sub_ps(a, b); }
INLINE floats mul(floats a, floats b) { return _mm256_mul_ps(a, b); }
INLINE floats divide(floats a, floats b) { return _mm256_div_ps(a, b); }
INLINE floats multiply_add(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }
/* b where either is not a number. */
INLINE floats least(floats a, floats b) { return _mm256_min_ps(a, b); }
INLINE floats most(floats a, floats b) { return _mm256_max_ps(a, b); }
INLINE float sum_of(floats a) {
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}
INLINE floats nearest(floats a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* 2^n for whole n that a float can hold. */
INLINE floats power_of_two(floats n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}

INLINE ints no_ints(void) { return _mm256_setzero_si256(); }
INLINE ints load_ints(const void *from) { return _mm256_loadu_si256(from); }
INLINE ints either(ints a, ints b) { return _mm256_xor_si256(a, b); }
INLINE floats to_floats(ints a) { return _mm256_cvtepi32_ps(a); }

INLINE floats even_bfloat16(ints a) { return _mm256_castsi256_ps(_mm256_slli_epi32(a, 16)); }
INLINE floats odd_bfloat16(ints a) {
    return _mm256_castsi256_ps(_mm256_and_si256(a, _mm256_set1_epi32((int)0xffff0000u)));
}
INLINE floats load_float16(const void *from) { return _mm256_cvtph_ps(_mm_loadu_si128(from)); }
INLINE void store_float16(void *to, floats a) { _mm_storeu_si128(to, _mm256_cvtps_ph(a, 0)); }
/* Byte `part` of each lane as e4m3, times 2^-120. */
INLINE floats fp8_part(ints a, const int part) {
    const ints top = part == 3 ? a : _mm256_slli_epi32(a, 24 - 8 * part);
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_srai_epi32(top, 4), _mm256_set1_epi32((int)0x87f00000u)));
}

/* Lane by lane: c plus the products of two neighbouring int16. */
INLINE ints add_products(ints c, ints a, ints b) { return _mm256_add_epi32(c, _mm256_madd_epi16(a, b)); }
/* As many int8 as there are int16 in a vector. */
INLINE ints widen_int8(const void *from) { return _mm256_cvtepi8_epi16(_mm_loadu_si128(from)); }
/* Four bits of each int16: `part` 0 is the lowest. */
INLINE ints nibbles(ints a, const int part) {
    const ints low = part == 0 ? a : _mm256_srli_epi16(a, 4 * part);
    return part == 3 ? low : _mm256_and_si256(low, _mm256_set1_epi16(15));
}
/* The same four bits as e2m1, doubled: whole numbers. */
INLINE ints nibbles_e2m1(ints a, const int part) {
    /* Bytes with the top bit set become 0; the table is raised by 12, so that a byte is a whole int16. */
    const ints table = _mm256_set_epi8(0, 4, 6, 8, 9, 10, 11, 12, 24, 20, 18, 16, 15, 14, 13, 12, 0, 4, 6, 8, 9, 10, 11,
                                       12, 24, 20, 18, 16, 15, 14, 13, 12);
    const ints index = _mm256_or_si256(nibbles(a, part), _mm256_set1_epi16((short)0x8000));
    return _mm256_sub_epi16(_mm256_shuffle_epi8(table, index), _mm256_set1_epi16(12));
}
/* A quarter of the lanes, each four times over. */
INLINE floats spread_quarter(floats a, const int quarter) {
    const ints index = _mm256_set_epi32(1, 1, 1, 1, 0, 0, 0, 0);
    return _mm256_permutevar8x32_ps(a, _mm256_add_epi32(index, _mm256_set1_epi32(2 * quarter)));
}
/* 2^(scale - 128) of e8m0 bytes; below what a float can hold as a normal number, 0. */
INLINE floats load_half_e8m0(const uint8_t *from) {
    const ints wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from)), one = _mm256_set1_epi32(1);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_sub_epi32(_mm256_max_epi32(wide, one), one), 23));
}
