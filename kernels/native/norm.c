/* Root-mean-square normalization of a few rows. */
#include "backend.h"

#include <math.h>
#include <stddef.h>

enum { PIECE = 256 };

static double squares(const folkmoot_backend *backend, int format, const char *x, int64_t K) {
    float wide[PIECE];
    double sums[8] = {0};
    const int64_t size = folkmoot_float_bytes(format);
    for (int64_t at = 0; at < K; at += PIECE) {
        const int64_t count = K - at < PIECE ? K - at : PIECE;
        backend->widen(format, x + at * size, wide, count);
        for (int64_t i = count; i < PIECE; i++) wide[i] = 0.0f;
        for (int i = 0; i < PIECE; i += 8) {
            for (int lane = 0; lane < 8; lane++) sums[lane] += (double)wide[i + lane] * wide[i + lane];
        }
    }
    double sum = 0;
    for (int lane = 0; lane < 8; lane++) sum += sums[lane];
    return sum;
}

int folkmoot_rms_norm(const void *x, const void *weight, int32_t format, int64_t n, int64_t K, float epsilon, void *y) {
    const folkmoot_backend *backend = folkmoot_current_backend();
    if (backend == NULL || format < 0 || format > FOLKMOOT_FLOAT16) return FOLKMOOT_NOT_HERE;
    const int64_t size = folkmoot_float_bytes(format);
    float wide[PIECE], factors[PIECE];
    for (int64_t j = 0; j < n; j++) {
        const char *row = (const char *)x + j * K * size;
        char *to = (char *)y + j * K * size;
        const float scale = 1.0f / sqrtf((float)(squares(backend, format, row, K) / (double)K) + epsilon);
        for (int64_t at = 0; at < K; at += PIECE) {
            const int64_t count = K - at < PIECE ? K - at : PIECE;
            backend->widen(format, row + at * size, wide, count);
            for (int64_t i = 0; i < count; i++) wide[i] *= scale;
            backend->narrow(format, wide, to + at * size, count);
            backend->widen(format, to + at * size, wide, count);
            backend->widen(format, (const char *)weight + at * size, factors, count);
            for (int64_t i = 0; i < count; i++) wide[i] *= factors[i];
            backend->narrow(format, wide, to + at * size, count);
        }
    }
    return FOLKMOOT_OK;
}
