/* Products of float matrices by columns: the weights of four inputs at a time are added to a line of sums after another.
 *
 * A sum's order is that of the inputs, whatever part of the columns a caller asks for.
 */

enum { INPUTS_AT_ONCE = 4 };

/* One line of columns: adds four inputs' weights times x to the sums of each row. */
INLINE void add_columns(const int format, const char *const *lines, const folkmoot_inputs *x, int64_t k, float *sums,
                        int64_t stride) {
    const int parts = PARTS(format);
    for (int64_t j = 0; j < x->n; j++) {
        const float *inputs = (const float *)(x->data + j * x->step) + k;
        UNROLLED for (int part = 0; part < parts; part++) {
            float *at = sums + j * stride + part * LANES;
            floats sum = load_floats(at);
            UNROLLED for (int q = 0; q < INPUTS_AT_ONCE; q++) {
                sum = multiply_add(line_part(format, lines[q], part), all_of(inputs[q]), sum);
            }
            store_floats(at, sum);
        }
    }
}

/* `sums` [n, stride] has room for whole lines and is in the order of `line_part`. */
INLINE void columns_of(const int format, const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x,
                       float *sums, int64_t stride) {
    const int64_t size = folkmoot_float_bytes(format), bytes = (end - begin) * size;
    for (int64_t k = 0; k < x->K; k += INPUTS_AT_ONCE) {
        const char *inputs[INPUTS_AT_ONCE];
        UNROLLED for (int q = 0; q < INPUTS_AT_ONCE; q++) {
            /* Past the last input x is padded with zeros; the last one's weights stand in, and must be finite for it. */
            const int64_t there = k + q < x->K ? k + q : x->K - 1;
            inputs[q] = (const char *)w->values + there * w->step + begin * size;
        }
        int64_t at = 0, column = 0;
        for (; at + LINE <= bytes; at += LINE, column += NUMBERS(format)) {
            const char *lines[INPUTS_AT_ONCE];
            UNROLLED for (int q = 0; q < INPUTS_AT_ONCE; q++) {
                lines[q] = inputs[q] + at;
                prefetch_line(lines[q]);
            }
            add_columns(format, lines, x, k, sums + column, stride);
        }
        if (at < bytes) {
            char rest[INPUTS_AT_ONCE][LINE] = {{0}};
            const char *lines[INPUTS_AT_ONCE];
            UNROLLED for (int q = 0; q < INPUTS_AT_ONCE; q++) {
                memcpy(rest[q], inputs[q] + at, (size_t)(bytes - at));
                lines[q] = rest[q];
            }
            add_columns(format, lines, x, k, sums + column, stride);
        }
    }
}

static void bfloat16_columns(const folkmoot_matrix *w, int64_t b, int64_t e, const folkmoot_inputs *x, float *s, int64_t t) {
    columns_of(FOLKMOOT_BFLOAT16, w, b, e, x, s, t);
}
static void float16_columns(const folkmoot_matrix *w, int64_t b, int64_t e, const folkmoot_inputs *x, float *s, int64_t t) {
    columns_of(FOLKMOOT_FLOAT16, w, b, e, x, s, t);
}
static void float32_columns(const folkmoot_matrix *w, int64_t b, int64_t e, const folkmoot_inputs *x, float *s, int64_t t) {
    columns_of(FOLKMOOT_FLOAT32, w, b, e, x, s, t);
}

/* Columns that are summed at once: their sums for a few rows stay in the second cache. */
enum { WIDE = 1024 };

static void column_products(int format, const folkmoot_matrix *w, int64_t begin, int64_t end, const folkmoot_inputs *x,
                            float *out) {
    const int64_t width = end - begin;
    enum { ROWS = 8 };
    float sums[ROWS * WIDE];
    for (int64_t b = begin; b < end; b += WIDE) {
        const int64_t e = end - b < WIDE ? end : b + WIDE;
        for (int64_t j0 = 0; j0 < x->n; j0 += ROWS) {
            const int64_t count = x->n - j0 < ROWS ? x->n - j0 : ROWS;
            const folkmoot_inputs some = {x->data + j0 * x->step, count, x->K, x->step, x->terms};
            memset(sums, 0, (size_t)(count * WIDE) * sizeof(float));
            if (format == FOLKMOOT_BFLOAT16) bfloat16_columns(w, b, e, &some, sums, WIDE);
            if (format == FOLKMOOT_FLOAT16) float16_columns(w, b, e, &some, sums, WIDE);
            if (format == FOLKMOOT_FLOAT32) float32_columns(w, b, e, &some, sums, WIDE);
            const int arity = ARITY(format);
            for (int64_t j = 0; j < count; j++) {
                for (int64_t i = 0; i < e - b; i++) {
                    const int64_t vector = i / (arity * LANES), inside = i % (arity * LANES);
                    const int64_t place = (vector * arity + inside % arity) * LANES + inside / arity;
                    out[(j0 + j) * width + b - begin + i] = sums[j * WIDE + place];
                }
            }
        }
    }
}
