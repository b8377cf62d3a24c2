/* Products of float matrices by rows: bfloat16, float16, float32, and e4m3 with its squares' scales.
 *
 * A weight row is read in lines of 64 bytes, in address order, with a prefetch to L2 far ahead and to L1 nearer by: at few
 * rows that alone decides the speed. Each line becomes float32 vectors in registers, in an order that costs least; the
 * inputs were packed in the same order.
 */

enum { FAR_AHEAD = 4096, NEAR_AHEAD = 1536, LINE = 64, FIRST_CACHE = 32 << 10, SQUARE = 128 };

/* Vectors of LANES numbers in a line, and numbers in it. */
#define PARTS(format) ((format) == FOLKMOOT_FLOAT32 ? 16 / LANES : (format) == FOLKMOOT_FP8_BLOCK ? 64 / LANES : 32 / LANES)
#define NUMBERS(format) (PARTS(format) * LANES)
/* Numbers that are neighbours in memory go to this many vectors in turn. */
#define ARITY(format) ((format) == FOLKMOOT_BFLOAT16 ? 2 : (format) == FOLKMOOT_FP8_BLOCK ? 4 : 1)

/* e4m3 is read as float32 times 2^-120: inputs carry half of the way back, scales the other. */
#define FP8_HALF 0x1p60f

/* Asks for the line `far` bytes on, and for that `near` bytes on, if any, to be nearest. */
INLINE void prefetch(const char *at, const int far, const int near) {
#if defined(__x86_64__)
    _mm_prefetch(at + far, _MM_HINT_T2);
    if (near) _mm_prefetch(at + near, _MM_HINT_T0);
#else
    __builtin_prefetch(at + far, 0, 2);
    if (near) __builtin_prefetch(at + near, 0, 3);
#endif
}

INLINE void prefetch_line(const char *at) { prefetch(at, FAR_AHEAD, NEAR_AHEAD); }

/* Vector `part` of a line, as float32. */
INLINE floats line_part(const int format, const char *line, const int part) {
    switch (format) {
        case FOLKMOOT_FLOAT32: return load_floats(line + part * 4 * LANES);
        case FOLKMOOT_FLOAT16: return load_float16(line + part * 2 * LANES);
        case FOLKMOOT_BFLOAT16: {
            const ints pair = load_ints(line + part / 2 * 4 * LANES);
            return part % 2 ? odd_bfloat16(pair) : even_bfloat16(pair);
        }
        default: return fp8_part(load_ints(line + part / 4 * 4 * LANES), part % 4);
    }
}

/* Sums of `tall` weight rows with `count` rows of x: one line of each. */
INLINE void add_line(const int format, const char *const *w, int64_t at, const float *x, int64_t stride, floats *sums,
                     const int tall, const int count, const int chains) {
    const int parts = PARTS(format);
    UNROLLED for (int r = 0; r < tall; r++) {
        UNROLLED for (int part = 0; part < parts; part++) {
            const floats weight = line_part(format, w[r] + at, part);
            UNROLLED for (int j = 0; j < count; j++) {
                floats *sum = &sums[(r * count + j) * chains + part % chains];
                *sum = multiply_add(weight, load_floats(x + j * stride + part * LANES), *sum);
            }
        }
    }
}

/* Products of `tall` weight rows with `count` rows of x; out[r * n + j]. */
INLINE void float_tile(const int format, const folkmoot_matrix *matrix, int64_t row, const folkmoot_inputs *x, int64_t j0,
                       float *out, const int tall, const int count) {
    /* Few rows have too few sums to hide the latency of an addition: they keep two each. */
    const int chains = tall == 1 && count <= 4 ? 2 : 1;
    const int64_t bytes = folkmoot_value_bytes(format, x->K), stride = x->step / 4;
    const float *inputs = (const float *)(x->data + j0 * x->step);
    const char *w[TALL];
    floats sums[TALL * MOST_ROWS_AT_ONCE * 2];
    UNROLLED for (int r = 0; r < tall; r++) w[r] = (const char *)matrix->values + (row + r) * matrix->step;
    UNROLLED for (int i = 0; i < tall * count * chains; i++) sums[i] = zeros();
    int64_t at = 0;
    for (; at + LINE <= bytes; at += LINE, inputs += NUMBERS(format)) {
        UNROLLED for (int r = 0; r < tall; r++) prefetch_line(w[r] + at);
        add_line(format, w, at, inputs, stride, sums, tall, count, chains);
    }
    if (at < bytes) {
        char rest[TALL][LINE] = {{0}};
        const char *ends[TALL];
        UNROLLED for (int r = 0; r < tall; r++) {
            memcpy(rest[r], w[r] + at, (size_t)(bytes - at));
            ends[r] = rest[r];
        }
        add_line(format, ends, 0, inputs, stride, sums, tall, count, chains);
    }
    UNROLLED for (int i = 0; i < tall * count; i++) {
        out[i / count * x->n + i % count] = sum_of(chains == 2 ? add(sums[2 * i], sums[2 * i + 1]) : sums[i]);
    }
}

/* The same for e4m3: sums of 128 numbers are multiplied by their square's scale. */
INLINE void fp8_tile(const int format, const folkmoot_matrix *matrix, int64_t row, const folkmoot_inputs *x, int64_t j0,
                     float *out, const int tall, const int count) {
    const int64_t bytes = x->K, stride = x->step / 4;
    const float *inputs = (const float *)(x->data + j0 * x->step);
    const float *scales = (const float *)matrix->scales + row / SQUARE * matrix->scale_step;
    const char *w[TALL];
    floats sums[TALL * MOST_ROWS_AT_ONCE];
    UNROLLED for (int r = 0; r < tall; r++) w[r] = (const char *)matrix->values + (row + r) * matrix->step;
    UNROLLED for (int i = 0; i < tall * count; i++) sums[i] = zeros();
    for (int64_t at = 0; at < bytes; at += SQUARE, scales++) {
        floats square[TALL * MOST_ROWS_AT_ONCE];
        UNROLLED for (int i = 0; i < tall * count; i++) square[i] = zeros();
        const char *from[TALL];
        char rest[TALL][SQUARE];
        UNROLLED for (int r = 0; r < tall; r++) from[r] = w[r] + at;
        if (bytes - at < SQUARE) {
            UNROLLED for (int r = 0; r < tall; r++) {
                memset(rest[r], 0, SQUARE);
                memcpy(rest[r], w[r] + at, (size_t)(bytes - at));
                from[r] = rest[r];
            }
        }
        UNROLLED for (int line = 0; line < SQUARE / LINE; line++, inputs += NUMBERS(format)) {
            UNROLLED for (int r = 0; r < tall; r++) prefetch_line(w[r] + at + line * LINE);
            add_line(format, from, line * LINE, inputs, stride, square, tall, count, 1);
        }
        const floats scale = mul(all_of(*scales), all_of(FP8_HALF));
        UNROLLED for (int i = 0; i < tall * count; i++) sums[i] = multiply_add(square[i], scale, sums[i]);
    }
    UNROLLED for (int i = 0; i < tall * count; i++) out[i / count * x->n + i % count] = sum_of(sums[i]);
}

typedef void (*tile_function)(const folkmoot_matrix *, int64_t, const folkmoot_inputs *, int64_t, float *);

#define TILE(name, body, format, tall, count)                                                                          \
    static void name##_##tall##_##count(const folkmoot_matrix *m, int64_t row, const folkmoot_inputs *x, int64_t j,    \
                                        float *out) {                                                                  \
        body(format, m, row, x, j, out, tall, count);                                              \
    }

/* Tiles of 1 and of TALL rows for each count, and the function that covers rows begin..end with them. */
#define FLOAT_PRODUCTS(name, body, format)                                                                             \
    TILE(name, body, format, 1, 1) TILE(name, body, format, 1, 2) TILE(name, body, format, 1, 3)                       \
    TILE(name, body, format, 1, 4) TILE(name, body, format, 1, 5) TILE(name, body, format, 1, 6)                       \
    TILE(name, body, format, 1, 7) TILE(name, body, format, 1, 8)                                                      \
    TILE(name, body, format, TALL, 1) TILE(name, body, format, TALL, 2) TILE(name, body, format, TALL, 3)                       \
    TILE(name, body, format, TALL, 4)                                                                                     \
    static void name(const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x, float *out) {     \
        static const tile_function flat[] = {0,        name##_1_1, name##_1_2, name##_1_3, name##_1_4,                 \
                                             name##_1_5, name##_1_6, name##_1_7, name##_1_8};                          \
        static const tile_function tall[] = {0, name##_TALL_1, name##_TALL_2, name##_TALL_3, name##_TALL_4};                       \
        float_products(w, begin, end, x, out, flat, tall);                                                             \
    }

/* One weight row after another while x stays in the first cache; otherwise TALL of them share each read of x. */
static void float_products(const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x, float *out,
                           const tile_function *flat, const tile_function *tall) {
    const int64_t together = x->n < MOST_ROWS_AT_ONCE ? x->n : MOST_ROWS_AT_ONCE;
    const int fits = together * x->step <= FIRST_CACHE;
    const int64_t block = fits ? MOST_ROWS_AT_ONCE : 4, height = fits ? 1 : TALL;
    for (int64_t row = begin; row < end; row += FOLKMOOT_ROWS) {
        const int64_t last = end - row < FOLKMOOT_ROWS ? end : row + FOLKMOOT_ROWS;
        for (int64_t j = 0; j < x->n; j += block) {
            const int64_t count = x->n - j < block ? x->n - j : block;
            int64_t i = row;
            if (!fits) {
                for (; i + height <= last; i += height) tall[count](w, i, x, j, out + (i - begin) * x->n + j);
            }
            for (; i < last; i++) flat[count](w, i, x, j, out + (i - begin) * x->n + j);
        }
    }
}

FLOAT_PRODUCTS(float32_products, float_tile, FOLKMOOT_FLOAT32)
FLOAT_PRODUCTS(bfloat16_products, float_tile, FOLKMOOT_BFLOAT16)
FLOAT_PRODUCTS(float16_products, float_tile, FOLKMOOT_FLOAT16)
FLOAT_PRODUCTS(fp8_products, fp8_tile, FOLKMOOT_FP8_BLOCK)
