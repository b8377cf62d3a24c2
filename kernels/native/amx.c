/* Products of bfloat16 by the matrix tiles of AMX: as fast as memory for up to some fifty rows.
 *
 * A tile of weights is 16 outputs by 32 inputs as they lie in memory: nothing is packed but the inputs. While the last inputs of
 * one block of outputs are read, the first ones of the next are fetched.
 */
#include "backend.h"

#ifdef FOLKMOOT_HAS_TILES

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq"))), apply_to = function)
#else
#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq")
#endif

#include "amx.h"

/* Pairs of inputs lie side by side, those of 16 rows after one another: that is the other tile. Rows that are missing in the
 * last panel count as zeros. After the terms come the sums of each 32 inputs. */
static void pack_row(const float *x, int64_t K, int64_t row, int64_t n, int terms, char *packed) {
    const __m512i evens = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
    const int64_t column = row % SIDE;
    const __mmask16 missing = row + 1 == n ? (__mmask16)(0xfffeu << column) : 0;
    char *panel = packed + row / SIDE * folkmoot_panel_bytes(K, terms);
    float *sums = (float *)(panel + terms * SIDE * K * 2);
    for (int64_t k = 0; k < K; k += DEPTH) {
        const __m512 low = _mm512_loadu_ps(x + k), high = _mm512_loadu_ps(x + k + 16);
        __m512 even = _mm512_permutex2var_ps(low, evens, high), odd = _mm512_permutex2var_ps(low, odds, high);
        sums[k / DEPTH * SIDE + column] = _mm512_reduce_add_ps(_mm512_add_ps(low, high));
        if (missing) _mm512_mask_storeu_ps(sums + k / DEPTH * SIDE, missing, _mm512_setzero_ps());
        for (int term = 0; term < terms; term++) {
            const __m512i even_bits = rounded(even), odd_bits = rounded(odd);
            uint32_t pairs[SIDE];
            _mm512_storeu_si512(pairs, _mm512_or_si512(_mm512_srli_epi32(even_bits, 16), odd_bits));
            uint32_t *to = (uint32_t *)(panel + term * SIDE * K * 2) + k / 2 * SIDE;
            for (int pair = 0; pair < SIDE; pair++, to += SIDE) {
                to[column] = pairs[pair];
                if (missing) _mm512_mask_storeu_epi32(to, missing, _mm512_setzero_si512());
            }
            even = left_out(even, even_bits), odd = left_out(odd, odd_bits);
        }
    }
}

/* 16 `tall` outputs of 16 `broad` rows; `outputs` of them exist, which are all when `whole`. */
INLINE void block(const char *w, int64_t step, int64_t outputs, int64_t K, const char *panels, int terms, int ahead, float *sums,
                  const int tall, const int broad, const int whole) {
    const int64_t panel = SIDE * K * 2, next = tall * SIDE * step;
    char rest[2 * TILE_BYTES] __attribute__((aligned(64)));
    if (!whole) memset(rest, 0, sizeof rest);
    _tile_zero(0);
    if (broad > 1) _tile_zero(1);
    if (tall > 1) _tile_zero(2);
    if (tall > 1 && broad > 1) _tile_zero(3);
    for (int64_t k = 0; k < K; k += DEPTH) {
        const char *at = w + k * 2;
        int64_t apart = step;
        if (!whole) {
            /* A tile reads 16 rows, and the last of a matrix may be the last of its memory. */
            for (int64_t row = 0; row < outputs; row++) memcpy(rest + row * LINE, at + row * step, LINE);
            at = rest, apart = LINE;
        }
        _tile_loadd(4, at, apart);
        if (tall > 1) _tile_loadd(5, at + SIDE * apart, apart);
        if (whole && ahead && k + DEPTH * 4 >= K) {
            const char *soon = w + next + (k + DEPTH * 4 - K) * 2;
            for (int row = 0; row < tall * SIDE; row++) _mm_prefetch(soon + row * step, _MM_HINT_T1);
        }
        for (int term = 0; term < terms; term++) {
            const char *inputs = panels + term * panel + k * 2 * SIDE;
            _tile_loadd(6, inputs, LINE);
            _tile_dpbf16ps(0, 4, 6);
            if (tall > 1) _tile_dpbf16ps(2, 5, 6);
            if (broad > 1) {
                _tile_loadd(7, inputs + folkmoot_panel_bytes(K, terms), LINE);
                _tile_dpbf16ps(1, 4, 7);
                if (tall > 1) _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
    _tile_stored(0, sums, LINE);
    if (broad > 1) _tile_stored(1, sums + SIDE * SIDE, LINE);
    if (tall > 1) _tile_stored(2, sums + 2 * SIDE * SIDE, LINE);
    if (tall > 1 && broad > 1) _tile_stored(3, sums + 3 * SIDE * SIDE, LINE);
}

static void products(const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x, float *out) {
    float sums[4 * SIDE * SIDE] __attribute__((aligned(64)));
    const int64_t n = x->n, K = x->K, panel = folkmoot_panel_bytes(K, x->terms);
    configure();
    for (int64_t i = begin; i < end; i += SIDE) {
        const char *values = (const char *)w->values + i * w->step;
        const int64_t outputs = at_most(end - i, SIDE);
        const int tall = outputs > SIDE, whole = outputs % SIDE == 0;
        for (int64_t j = 0; j < n; j += 2 * SIDE) {
            const char *panels = x->data + j / SIDE * panel;
            const int broad = n - j > SIDE, ahead = j == 0;
#define BLOCK(tall, broad, whole) block(values, w->step, outputs, K, panels, x->terms, ahead, sums, tall, broad, whole)
            if (!whole && broad) BLOCK(1, 2, 0);
            else if (!whole) BLOCK(1, 1, 0);
            else if (tall && broad) BLOCK(2, 2, 1);
            else if (tall) BLOCK(2, 1, 1);
            else if (broad) BLOCK(1, 2, 1);
            else BLOCK(1, 1, 1);
            for (int part = 0; part < 4; part++) {
                const int64_t down = part / 2 * SIDE, right = part % 2 * SIDE;
                if (down >= outputs || j + right >= n) continue;
                place(sums + part * SIDE * SIDE, out + (j + right) * (end - begin) + i - begin + down, end - begin, at_most(outputs - down, SIDE),
                      at_most(n - j - right, SIDE));
            }
        }
    }
    _tile_release();
}

const folkmoot_tiles folkmoot_amx = {
    .pack_row = pack_row,
    .products =
        {
            [FOLKMOOT_BFLOAT16] = products,
            [FOLKMOOT_FP8_BLOCK] = folkmoot_amx_fp8,
            [FOLKMOOT_INT8] = folkmoot_amx_int8,
            [FOLKMOOT_INT8_CHANNEL] = folkmoot_amx_int8_channel,
            [FOLKMOOT_INT4] = folkmoot_amx_int4,
            [FOLKMOOT_MXFP4] = folkmoot_amx_mxfp4,
        },
    .fewest =
        {
            [FOLKMOOT_BFLOAT16] = 4,
            [FOLKMOOT_FP8_BLOCK] = 4,
            [FOLKMOOT_INT8] = 7,
            [FOLKMOOT_INT8_CHANNEL] = 7,
            [FOLKMOOT_INT4] = 9,
            [FOLKMOOT_MXFP4] = 9,
        },
};

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
