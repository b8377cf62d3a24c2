/* What one instruction set has to offer to the drivers that all of them share. */
#ifndef FOLKMOOT_BACKEND_H
#define FOLKMOOT_BACKEND_H

#include "folkmoot_kernels.h"

/* n rows of inputs, packed for one format by one backend: `pack` made each, `packed_bytes` apart; or in panels for tiles, in
 * which an input is the sum of some bfloat16 `terms`: one when it is bfloat16 itself, two for what a float32 is within 2^-16. */
typedef struct {
    const char *data;
    int64_t n, K, step;
    int terms;
} folkmoot_inputs;

/* How one instruction set multiplies matrices by panels. */
typedef struct {
    /* One row x[K], float32, into what `products` of the format reads: as many bytes as the backend's own packing has, at most. */
    void (*pack)(int format, const float *x, int64_t K, void *packed);
    /* out[j * (end - begin) + i - begin] = W[i, :] . x[j, :] for rows begin <= i < end, both multiples of
     * FOLKMOOT_PANEL_ROWS. NULL where a format has no panels. */
    void (*products[FOLKMOOT_FORMATS])(const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x,
                                       float *out);
} folkmoot_panels;

typedef struct {
    const char *name;
    /* How many bytes a packed row of K inputs has: a multiple of 64. */
    int64_t (*packed_bytes)(int format, int64_t K);
    /* One row x[K], float32, into what `products` of the format reads. */
    void (*pack)(int format, const float *x, int64_t K, void *packed);
    /* out[(i - begin) * n + j] = W[i, :] . x[j, :] for rows begin <= i < end of a matrix by rows. `begin` is a
     * multiple of FOLKMOOT_ROWS, so that each sum has one order whoever computes it. */
    void (*products[FOLKMOOT_FORMATS])(const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x,
                                       float *out);
    /* The same for columns begin <= i < end of a float matrix by columns, and out[j * (end - begin) + i - begin];
     * inputs are plain float32 rows. */
    void (*column_products)(int format, const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x,
                            float *out);
    /* inner[i] = activation(gate[i], up[i]) */
    void (*activate)(const folkmoot_form *form, const float *gate, const float *up, float *inner, int64_t size);
    /* to[i] = from[i], from a float format to float32 and back, rounded to nearest even. */
    void (*widen)(int format, const void *from, float *to, int64_t size);
    void (*narrow)(int format, const float *from, void *to, int64_t size);
    uint64_t (*read)(const char *memory, int64_t bytes);
    const folkmoot_panels *panels; /* or NULL */
} folkmoot_backend;

/* What a processor with matrix tiles offers besides, for matrices by rows or by panels, and inputs in panels of 16 rows. */
typedef struct {
    /* Packs row `row` of n, x[K], into its panel, each folkmoot_panel_bytes long. K is a multiple of FOLKMOOT_TILE_INPUTS. */
    void (*pack_row)(const float *x, int64_t K, int64_t row, int64_t n, int terms, char *packed);
    /* out[j * (end - begin) + i - begin] = W[i, :] . x[j, :] for rows begin <= i < end; begin as for a backend's products.
     * NULL where tiles do not compute with a format. */
    void (*products[FOLKMOOT_FORMATS])(const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x, float *out);
    /* From so many rows on they are faster than a backend's; measured. */
    int fewest[FOLKMOOT_FORMATS];
} folkmoot_tiles;

enum { FOLKMOOT_TILE_ROWS = 16, FOLKMOOT_TILE_INPUTS = 32 };

/* A panel: 16 rows of each term, and float32 sums of each 32 inputs. */
static inline int64_t folkmoot_panel_bytes(int64_t K, int terms) {
    return FOLKMOOT_TILE_ROWS * (2 * K * terms + K / FOLKMOOT_TILE_INPUTS * (int64_t)sizeof(float));
}

/* The tiles that compute with matrices by rows, and with those by panels, or NULL. */
const folkmoot_tiles *folkmoot_current_tiles(void), *folkmoot_current_panel_tiles(void);

#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define FOLKMOOT_HAS_TILES
extern const folkmoot_tiles folkmoot_amx, folkmoot_amx_panels;
#define FOLKMOOT_AMX_PRODUCTS(name)                                                                                    \
    void folkmoot_amx_##name(const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x, float *out)
FOLKMOOT_AMX_PRODUCTS(fp8);
FOLKMOOT_AMX_PRODUCTS(int8);
FOLKMOOT_AMX_PRODUCTS(int8_channel);
FOLKMOOT_AMX_PRODUCTS(int4);
FOLKMOOT_AMX_PRODUCTS(mxfp4);
#endif

/* Rows of a matrix that stay together, whoever computes them. */
enum { FOLKMOOT_ROWS = FOLKMOOT_PANEL_ROWS };

/* The backend that computes, or NULL. */
const folkmoot_backend *folkmoot_current_backend(void);

extern const folkmoot_panels folkmoot_avx512_panels;
extern const folkmoot_backend folkmoot_avx512, folkmoot_avx2, folkmoot_neon;

/* Elements of a float format have 2 or 4 bytes. */
static inline int64_t folkmoot_float_bytes(int format) { return format == FOLKMOOT_FLOAT32 ? 4 : 2; }

/* How many bytes the values of K inputs have. */
static inline int64_t folkmoot_value_bytes(int format, int64_t K) {
    switch (format) {
        case FOLKMOOT_FLOAT32: return 4 * K;
        case FOLKMOOT_BFLOAT16:
        case FOLKMOOT_FLOAT16: return 2 * K;
        case FOLKMOOT_INT4:
        case FOLKMOOT_MXFP4: return K / 2;
        default: return K;
    }
}

#endif
