/* Inputs in the order and the type in which each format's products read them, and float types to and from float32. */

/* Element i of `from` goes where vectors of `width` elements, `arity` of them taking neighbours in turn, have it. */
#define IN_TURN(i, arity, width)                                                                                       \
    (((i) / ((arity) * (width)) * (arity) + (i) % (arity)) * (width) + (i) % ((arity) * (width)) / (arity))

INLINE int is_integer(int format) { return format >= FOLKMOOT_INT8; }

static int64_t packed_bytes(int format, int64_t K) {
    if (is_integer(format)) {
        const int64_t blocks = (K + BLOCK - 1) / BLOCK;
        return (blocks * (2 * BLOCK + 2 * LANES * (int64_t)sizeof(float)) + 63) / 64 * 64;
    }
    return (K + SQUARE - 1) / SQUARE * SQUARE * (int64_t)sizeof(float);
}

INLINE void pack_in_turn(const float *x, int64_t K, float *to, const int arity, float factor) {
    const int64_t whole = K / (arity * LANES) * (arity * LANES);
    for (int64_t i = 0; i < whole; i += arity * LANES) {
        for (int q = 0; q < arity; q++) {
            for (int lane = 0; lane < LANES; lane++) to[i + q * LANES + lane] = x[i + lane * arity + q] * factor;
        }
    }
    for (int64_t i = whole; i < K; i++) to[IN_TURN(i, arity, LANES)] = x[i] * factor;
}

/* One group of `count` inputs as int16 and a scale; an infinity or NaN makes the scale NaN, and so every sum. */
INLINE void pack_group(const float *x, int64_t count, int64_t first, int in_turn, int16_t *to, float *scale, float *sum) {
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves a whole number in the lowest bits */
    float padded[GROUP] = {0};
    memcpy(padded, x, (size_t)count * sizeof(float));
    uint32_t largest = 0;
    for (int i = 0; i < GROUP; i++) {
        uint32_t bits;
        memcpy(&bits, &padded[i], 4);
        bits &= 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    float most_of;
    memcpy(&most_of, &largest, 4);
    const int finite = largest < 0x7f800000u;
    const float inverse = finite && most_of > 1e-30f ? 32767.0f / most_of : 0.0f;
    int16_t numbers[GROUP];
    int32_t total = 0;
    for (int i = 0; i < GROUP; i++) {
        const float shifted = (finite ? padded[i] * inverse : 0.0f) + round;
        int32_t number;
        memcpy(&number, &shifted, 4);
        number -= 0x4b400000;
        numbers[i] = (int16_t)number;
        total += number;
    }
    if (in_turn) {
        for (int i = 0; i < GROUP; i++) to[IN_TURN(first + i, 4, 2 * LANES)] = numbers[i];
    } else {
        memcpy(to + first, numbers, sizeof numbers);
    }
    *scale = !finite ? NAN : most_of > 1e-30f ? most_of / 32767.0f : 0.0f;
    *sum = *scale * (float)total;
}

static void pack(int format, const float *x, int64_t K, void *packed) {
    if (is_integer(format)) {
        const int64_t padded = (K + BLOCK - 1) / BLOCK * BLOCK;
        float *scales = (float *)((char *)packed + 2 * padded), *sums = scales + padded / GROUP;
        const int in_turn = format == FOLKMOOT_INT4 || format == FOLKMOOT_MXFP4;
        for (int64_t k = 0; k < padded; k += GROUP) {
            const int64_t count = K - k < 0 ? 0 : K - k < GROUP ? K - k : GROUP;
            pack_group(x + (count ? k : 0), count, k, in_turn, packed, scales + k / GROUP, sums + k / GROUP);
        }
        return;
    }
    memset((float *)packed + K / (4 * LANES) * (4 * LANES), 0,
           (size_t)(packed_bytes(format, K) - K / (4 * LANES) * (4 * LANES) * 4));
    if (ARITY(format) == 1) memcpy(packed, x, (size_t)K * sizeof(float));
    if (ARITY(format) == 2) pack_in_turn(x, K, packed, 2, 1.0f);
    if (ARITY(format) == 4) pack_in_turn(x, K, packed, 4, FP8_HALF);
}

static void widen(int format, const void *from, float *to, int64_t size) {
    if (format == FOLKMOOT_FLOAT32) memcpy(to, from, (size_t)size * sizeof(float));
    if (format == FOLKMOOT_BFLOAT16) {
        const uint16_t *halves = from;
        for (int64_t i = 0; i < size; i++) {
            const uint32_t bits = (uint32_t)halves[i] << 16;
            memcpy(to + i, &bits, 4);
        }
    }
    if (format == FOLKMOOT_FLOAT16) {
        const uint16_t *halves = from;
        int64_t i = 0;
        for (; i + LANES <= size; i += LANES) store_floats(to + i, load_float16(halves + i));
        if (i < size) {
            uint16_t few[LANES] = {0};
            float wide[LANES];
            memcpy(few, halves + i, (size_t)(size - i) * 2);
            store_floats(wide, load_float16(few));
            memcpy(to + i, wide, (size_t)(size - i) * sizeof(float));
        }
    }
}

static void narrow(int format, const float *from, void *to, int64_t size) {
    if (format == FOLKMOOT_FLOAT32) memcpy(to, from, (size_t)size * sizeof(float));
    if (format == FOLKMOOT_BFLOAT16) {
        uint16_t *halves = to;
        for (int64_t i = 0; i < size; i++) {
            uint32_t bits;
            memcpy(&bits, from + i, 4);
            const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
            halves[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40 : rounded);
        }
    }
    if (format == FOLKMOOT_FLOAT16) {
        uint16_t *halves = to;
        int64_t i = 0;
        for (; i + LANES <= size; i += LANES) store_float16(halves + i, load_floats(from + i));
        if (i < size) {
            uint16_t few[LANES];
            float wide[LANES] = {0};
            memcpy(wide, from + i, (size_t)(size - i) * sizeof(float));
            store_float16(few, load_floats(wide));
            memcpy(halves + i, few, (size_t)(size - i) * 2);
        }
    }
}
