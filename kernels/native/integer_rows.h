/* Products of matrices of small whole numbers by rows: int8 by group and by channel, int4, mxfp4.
 *
 * Inputs were packed as int16 with one float32 scale a group of 32, which loses less than 2^-15 of a group's largest input:
 * whole numbers are multiplied and added exactly, and each group's sum is scaled in float32. A block is LANES groups,
 * so that their scales fill one vector.
 */

enum { GROUP = 32, BLOCK = LANES * GROUP, MOST_IN_BLOCK = 4, VECTOR = 4 * LANES };

/* How far ahead values and scales are asked for; measured. Lines of four bits a number last so long that asking twice for their
 * scales costs more than it saves. */
enum { VALUES_FAR = 3072, VALUES_NEAR = 1536, SCALES_FAR = 3072, SCALES_NEAR = 256 };

/* A packed row of inputs: [blocks * BLOCK] int16, then for each group its scale, then scale times sum. */
typedef struct {
    const int16_t *numbers;
    const float *scales, *sums;
} packed_row;

INLINE packed_row row_of(const folkmoot_inputs *x, int64_t j) {
    const int64_t padded = (x->K + BLOCK - 1) / BLOCK * BLOCK;
    const char *data = x->data + j * x->step;
    const float *scales = (const float *)(data + 2 * padded);
    return (packed_row){(const int16_t *)data, scales, scales + padded / GROUP};
}

/* The first `groups` groups of one block of one weight row with `count` rows of x. `scales` and `minima` are the block's, whole. */
INLINE void add_block(const int format, const char *values, const char *scales, const char *minima, int64_t block, const packed_row *x,
                      floats *sums, const int count, const int groups) {
    floats scale[MOST_IN_BLOCK];
    UNROLLED for (int j = 0; j < count; j++) {
        scale[j] = load_floats(x[j].scales + block * LANES);
        if (format == FOLKMOOT_INT8 || format == FOLKMOOT_INT4) scale[j] = mul(scale[j], load_float16(scales));
        if (format == FOLKMOOT_MXFP4) scale[j] = mul(scale[j], load_half_e8m0((const uint8_t *)scales));
        if (format == FOLKMOOT_INT4) {
            sums[j] = multiply_add(load_float16(minima), load_floats(x[j].sums + block * LANES), sums[j]);
        }
    }
    if (format == FOLKMOOT_INT4 || format == FOLKMOOT_MXFP4) {
        /* A vector holds four numbers in each int16, a group in each four lanes. */
        UNROLLED for (int v = 0; v < 4; v++) {
            if (v * LANES / 4 >= groups) break;
            if (v * VECTOR % LINE == 0) prefetch(values + v * VECTOR, VALUES_FAR, VALUES_NEAR);
            const ints packed = load_ints(values + v * VECTOR);
            ints weights[4];
            UNROLLED for (int part = 0; part < 4; part++) {
                weights[part] = format == FOLKMOOT_INT4 ? nibbles(packed, part) : nibbles_e2m1(packed, part);
            }
            UNROLLED for (int j = 0; j < count; j++) {
                const int16_t *numbers = x[j].numbers + block * BLOCK + v * 8 * LANES;
                ints products = no_ints();
                UNROLLED for (int part = 0; part < 4; part++) {
                    products = add_products(products, weights[part], load_ints(numbers + part * 2 * LANES));
                }
                sums[j] = multiply_add(to_floats(products), spread_quarter(scale[j], v), sums[j]);
            }
        }
        return;
    }
    float each[MOST_IN_BLOCK][LANES];
    UNROLLED for (int j = 0; j < count; j++) {
        store_floats(each[j], scale[j]);
        /* Read back from memory a scale costs nothing; compilers that know it by heart shuffle for each instead. */
        __asm__("" : "+m"(each[j]));
    }
    UNROLLED for (int g = 0; g < LANES; g++) {
        if (g >= groups) break;
        ints products[MOST_IN_BLOCK];
        UNROLLED for (int j = 0; j < count; j++) products[j] = no_ints();
        UNROLLED for (int part = 0; part < 16 / LANES; part++) {
            const int at = g * GROUP + part * 2 * LANES;
            if (at % LINE == 0) prefetch(values + at, VALUES_FAR, VALUES_NEAR);
            const ints weights = widen_int8(values + at);
            UNROLLED for (int j = 0; j < count; j++) {
                products[j] = add_products(products[j], weights, load_ints(x[j].numbers + block * BLOCK + at));
            }
        }
        UNROLLED for (int j = 0; j < count; j++) {
            floats *sum = &sums[g % 2 * count + j];
            *sum = multiply_add(to_floats(products[j]), all_of(each[j][g]), *sum);
        }
    }
}

/* One weight row with `count` rows of x; out[j]. */
INLINE void integer_row(const int format, const folkmoot_matrix *matrix, int64_t row, int64_t K, const packed_row *x,
                        float *out, const int count) {
    const int value_bytes = format == FOLKMOOT_INT4 || format == FOLKMOOT_MXFP4 ? BLOCK / 2 : BLOCK;
    const int scale_bytes = format == FOLKMOOT_MXFP4 ? LANES : format == FOLKMOOT_INT8_CHANNEL ? 0 : 2 * LANES;
    const char *values = (const char *)matrix->values + row * matrix->step;
    const char *scales = matrix->scales, *minima = matrix->minima;
    floats sums[2 * MOST_IN_BLOCK];
    UNROLLED for (int i = 0; i < 2 * count; i++) sums[i] = zeros();
    if (scale_bytes) scales += row * matrix->scale_step * (scale_bytes / LANES);
    if (format == FOLKMOOT_INT4) minima += row * matrix->scale_step * 2;
    const int64_t whole = K / BLOCK;
    int64_t block = 0;
    for (; block < whole; block++) {
        if (scale_bytes) prefetch(scales, SCALES_FAR, format == FOLKMOOT_INT8 ? SCALES_NEAR : 0);
        if (format == FOLKMOOT_INT4) prefetch(minima, SCALES_FAR, 0);
        add_block(format, values, scales, minima, block, x, sums, count, LANES);
        values += value_bytes;
        if (scale_bytes) scales += scale_bytes;
        if (format == FOLKMOOT_INT4) minima += scale_bytes;
    }
    if (block * BLOCK < K) {
        const int64_t rest = K - block * BLOCK, groups = (rest + GROUP - 1) / GROUP, bytes = folkmoot_value_bytes(format, rest);
        char last[BLOCK], last_scales[2 * LANES] = {0}, last_minima[2 * LANES] = {0};
        const char *from = values;
        /* Whole vectors are read where they are: experts whose width is no multiple of a block have a rest in every row. */
        if (bytes % VECTOR != 0) {
            memset(last, 0, sizeof last);
            from = memcpy(last, values, (size_t)bytes);
        }
        if (scale_bytes) memcpy(last_scales, scales, (size_t)(groups * (scale_bytes / LANES)));
        if (format == FOLKMOOT_INT4) memcpy(last_minima, minima, (size_t)(2 * groups));
        add_block(format, from, last_scales, last_minima, block, x, sums, count, (int)groups);
    }
    const float channel = format == FOLKMOOT_INT8_CHANNEL ? ((const float *)matrix->scales)[row * matrix->scale_step] : 1.0f;
    UNROLLED for (int j = 0; j < count; j++) out[j] = channel * sum_of(add(sums[j], sums[count + j]));
}

/* The same for rows begin..end; out[i * inputs->n + j]. */
INLINE void integer_tile(const int format, const folkmoot_matrix *matrix, int64_t begin, int64_t end,
                         const folkmoot_inputs *inputs, int64_t j0, float *out, const int count) {
    packed_row x[MOST_IN_BLOCK];
    UNROLLED for (int j = 0; j < count; j++) x[j] = row_of(inputs, j0 + j);
    for (int64_t i = begin; i < end; i++, out += inputs->n) integer_row(format, matrix, i, inputs->K, x, out, count);
}

typedef void (*integer_function)(const folkmoot_matrix *, int64_t, int64_t, const folkmoot_inputs *, int64_t, float *);

#define INTEGER_TILE(name, format, count)                                                                              \
    static void name##_##count(const folkmoot_matrix *m, int64_t begin, int64_t end, const folkmoot_inputs *x,         \
                               int64_t j, float *out) {                                                                \
        integer_tile(format, m, begin, end, x, j, out, count);                                                         \
    }

#define INTEGER_PRODUCTS(name, format)                                                                                 \
    INTEGER_TILE(name, format, 1) INTEGER_TILE(name, format, 2) INTEGER_TILE(name, format, 3)                          \
    INTEGER_TILE(name, format, 4)                                                                                      \
    static void name(const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x, float *out) {     \
        static const integer_function tiles[] = {0, name##_1, name##_2, name##_3, name##_4};                           \
        integer_products(w, begin, end, x, out, tiles);                                                                \
    }

/* A few weight rows stay in cache while all of x passes, block by block. */
static void integer_products(const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x, float *out,
                             const integer_function *tiles) {
    const int64_t height = x->n <= MOST_IN_BLOCK ? end - begin : FOLKMOOT_ROWS;
    for (int64_t row = begin; row < end; row += height) {
        const int64_t last = end - row < height ? end : row + height;
        for (int64_t j = 0; j < x->n; j += MOST_IN_BLOCK) {
            const int64_t count = x->n - j < MOST_IN_BLOCK ? x->n - j : MOST_IN_BLOCK;
            tiles[count](w, row, last, x, j, out + (row - begin) * x->n + j);
        }
    }
}

INTEGER_PRODUCTS(int8_products, FOLKMOOT_INT8)
INTEGER_PRODUCTS(int8_channel_products, FOLKMOOT_INT8_CHANNEL)
INTEGER_PRODUCTS(int4_products, FOLKMOOT_INT4)
INTEGER_PRODUCTS(mxfp4_products, FOLKMOOT_MXFP4)
