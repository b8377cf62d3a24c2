/* Scales of groups as float32, on AVX512: for files that have set their target and said what INLINE is. */

/* 16 numbers of float16. */
INLINE __m512 halves_at(const void *from) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)); }

/* Half of 2^(scale - 127) of 16 bytes, for numbers that are doubled; below what a float can hold as a normal number, 0. */
INLINE __m512 halved_e8m0(__m128i bytes) {
    const __m512i one = _mm512_set1_epi32(1), bits = _mm512_max_epi32(_mm512_cvtepu8_epi32(bytes), one);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_sub_epi32(bits, one), 23));
}
