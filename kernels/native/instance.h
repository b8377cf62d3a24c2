/* All of a backend, made out of the vectors of one instruction set: included once by each of their files, which says what
 * INLINE, BACKEND, BACKEND_NAME and BACKEND_PANELS are. */
#include "backend.h"

#include <math.h>
#include <string.h>

/* Unrolled whole, so that sums stay in registers. */
#define UNROLLED _Pragma("GCC unroll 16")

#include BACKEND_VECTORS

#include "float_rows.h"

#include "integer_rows.h"

#include "float_columns.h"

#include "activation.h"
#include "inputs.h"

static uint64_t read_lines(const char *memory, int64_t bytes) {
    enum { STREAMS = LINE / (4 * LANES) > 4 ? LINE / (4 * LANES) : 4 };
    ints sums[STREAMS];
    uint32_t lanes[LANES];
    uint64_t result = 0;
    for (int i = 0; i < STREAMS; i++) sums[i] = no_ints();
    const int64_t step = STREAMS * 4 * LANES;
    for (int64_t at = 0; at + step <= bytes; at += step) {
        UNROLLED for (int line = 0; line < step; line += LINE) prefetch_line(memory + at + line);
        UNROLLED for (int i = 0; i < STREAMS; i++) sums[i] = either(sums[i], load_ints(memory + at + i * 4 * LANES));
    }
    for (int i = 0; i < STREAMS; i++) {
        memcpy(lanes, &sums[i], sizeof lanes);
        for (int lane = 0; lane < LANES; lane++) result ^= (uint64_t)lanes[lane] << (lane % 2 * 32);
    }
    return result;
}

const folkmoot_backend BACKEND = {
    .name = BACKEND_NAME,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .products =
        {
            [FOLKMOOT_FLOAT32] = float32_products,
            [FOLKMOOT_BFLOAT16] = bfloat16_products,
            [FOLKMOOT_FLOAT16] = float16_products,
            [FOLKMOOT_FP8_BLOCK] = fp8_products,
            [FOLKMOOT_INT8] = int8_products,
            [FOLKMOOT_INT8_CHANNEL] = int8_channel_products,
            [FOLKMOOT_INT4] = int4_products,
            [FOLKMOOT_MXFP4] = mxfp4_products,
        },
    .column_products = column_products,
    .activate = activate,
    .widen = widen,
    .narrow = narrow,
    .read = read_lines,
    .panels = BACKEND_PANELS,
};
