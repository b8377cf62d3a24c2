/* The native kernels on edge sizes, to be built with sanitizers: `make test-native`.
 *
 * What is proven: every format on every instruction set that this machine has agrees with sums in double; every array is
 * exactly as long as the interface says and ends where the sanitizer looks; results are the same for 1, 2 and 3 threads,
 * for callers at once, and in a forked child.
 */
#include "folkmoot_kernels.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(what)                                                                                                    \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, folkmoot_isa(), #what);                             \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static _Thread_local uint64_t state = 88172645463325252u;
static uint32_t random_bits(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 16);
}
static float random_float(void) { return (float)((int32_t)random_bits() % 2001) / 1000.0f; }

static float bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static double half_to_double(uint16_t h) {
    const int exponent = h >> 10 & 31, mantissa = h & 1023;
    const double size = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return h >> 15 ? -size : size;
}
/* A float16 with few bits, so that it is exact. */
static uint16_t small_half(void) { return (uint16_t)((random_bits() % 4 + 11) << 10 | random_bits() % 1024); }

/* A matrix in buffers that end where it ends, and what it means. */
typedef struct {
    folkmoot_matrix stored;
    double *meaning; /* [N, K] */
    void *values, *scales, *minima, *bias;
} matrix;

static void *filled(size_t bytes) {
    uint8_t *data = malloc(bytes);
    for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)random_bits();
    return data;
}

static double number(int format, const matrix *m, int64_t N, int64_t K, int64_t i, int64_t k) {
    static const double e2m1[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    const uint8_t *bytes = m->values;
    const uint16_t *halves = m->values, *scales = m->scales, *minima = m->minima;
    const int64_t group = i * (K / 32) + k / 32;
    const int nibble = K > 1 ? bytes[(i * K + k) / 2] >> (k % 2 * 4) & 15 : 0;
    (void)N;
    switch (format) {
        case FOLKMOOT_FLOAT32: return ((const float *)m->values)[i * K + k];
        case FOLKMOOT_BFLOAT16: return bits_to_float((uint32_t)halves[i * K + k] << 16);
        case FOLKMOOT_FLOAT16: return half_to_double(halves[i * K + k]);
        case FOLKMOOT_INT8: return (int8_t)bytes[i * K + k] * half_to_double(scales[group]);
        case FOLKMOOT_INT8_CHANNEL: return (int8_t)bytes[i * K + k] * (double)((float *)m->scales)[i];
        case FOLKMOOT_INT4: return nibble * half_to_double(scales[group]) + half_to_double(minima[group]);
        case FOLKMOOT_MXFP4:
            return ldexp(nibble & 8 ? -e2m1[nibble & 7] : e2m1[nibble & 7], ((uint8_t *)m->scales)[group] - 127);
        default: {
            const uint8_t code = bytes[i * K + k];
            const int exponent = code >> 3 & 15, mantissa = code & 7;
            const double size = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
            return (code >> 7 ? -size : size) * ((float *)m->scales)[i / 128 * ((K + 127) / 128) + k / 128];
        }
    }
}

static matrix make(int format, int64_t N, int64_t K, int biased) {
    matrix m = {.values = NULL};
    const int64_t groups = N * (K / 32), squares = (N + 127) / 128 * ((K + 127) / 128);
    const int halves = format == FOLKMOOT_INT4 || format == FOLKMOOT_MXFP4;
    const int64_t size = format == FOLKMOOT_FLOAT32 ? 4 : format <= FOLKMOOT_FLOAT16 ? 2 : 1;
    m.values = filled((size_t)(N * K * size / (halves ? 2 : 1)));
    m.stored.step = K * size / (halves ? 2 : 1);
    m.stored.scale_step = format == FOLKMOOT_INT8_CHANNEL ? 1 : format == FOLKMOOT_FP8_BLOCK ? (K + 127) / 128 : K / 32;
    for (int64_t e = 0; e < N * K; e++) {
        if (format == FOLKMOOT_FLOAT32) ((float *)m.values)[e] = random_float();
        if (format == FOLKMOOT_BFLOAT16) ((uint16_t *)m.values)[e] = (uint16_t)((random_bits() & 0x807f) | 0x3f00);
        if (format == FOLKMOOT_FLOAT16) ((uint16_t *)m.values)[e] = (uint16_t)((random_bits() & 0x83ff) | 0x3800);
        if (format == FOLKMOOT_FP8_BLOCK && (((uint8_t *)m.values)[e] & 0x7f) == 0x7f) ((uint8_t *)m.values)[e] = 0x7e;
    }
    if (format == FOLKMOOT_INT8 || format == FOLKMOOT_INT4) {
        m.scales = malloc((size_t)groups * 2);
        for (int64_t g = 0; g < groups; g++) ((uint16_t *)m.scales)[g] = small_half();
    }
    if (format == FOLKMOOT_INT4) {
        m.minima = malloc((size_t)groups * 2);
        for (int64_t g = 0; g < groups; g++) ((uint16_t *)m.minima)[g] = small_half() | 0x8000;
    }
    if (format == FOLKMOOT_MXFP4) {
        m.scales = malloc((size_t)groups);
        for (int64_t g = 0; g < groups; g++) ((uint8_t *)m.scales)[g] = (uint8_t)(120 + random_bits() % 8);
    }
    if (format == FOLKMOOT_INT8_CHANNEL || format == FOLKMOOT_FP8_BLOCK) {
        const int64_t count = format == FOLKMOOT_FP8_BLOCK ? squares : N;
        m.scales = malloc((size_t)count * 4);
        for (int64_t i = 0; i < count; i++) ((float *)m.scales)[i] = 0.01f * random_float();
    }
    if (biased) {
        m.bias = malloc((size_t)N * 4);
        for (int64_t i = 0; i < N; i++) ((float *)m.bias)[i] = random_float();
    }
    m.meaning = malloc((size_t)(N * K) * sizeof(double));
    for (int64_t i = 0; i < N; i++) {
        for (int64_t k = 0; k < K; k++) m.meaning[i * K + k] = number(format, &m, N, K, i, k);
    }
    m.stored.values = m.values, m.stored.scales = m.scales, m.stored.minima = m.minima, m.stored.bias = m.bias;
    m.stored.bias_step = 1;
    return m;
}

static void drop(matrix *m) { free(m->values), free(m->scales), free(m->minima), free(m->bias), free(m->meaning); }

static double close_to(float got, double want, double terms) { return fabs(got - want) <= 2e-4 * terms + 1e-6; }

/* One layer by itself. */
static int linear(const folkmoot_matrix *w, int format, int64_t N, int64_t K, const float *x, int64_t n, float *y, int threads) {
    const folkmoot_layer layer = {*w, N, y};
    return folkmoot_linear(&layer, 1, format, FOLKMOOT_FLOAT32, K, x, FOLKMOOT_FLOAT32, FOLKMOOT_FLOAT32, n, threads);
}

static void check_linear(int format, int64_t N, int64_t K, int64_t n) {
    matrix m = make(format, N, K, N % 2);
    float *x = malloc((size_t)(n * K) * 4), *y = malloc((size_t)(n * N) * 4), *again = malloc((size_t)(n * N) * 4);
    for (int64_t e = 0; e < n * K; e++) x[e] = random_float();
    CHECK(linear(&m.stored, format, N, K, x, n, y, 1) == 0);
    for (int64_t j = 0; j < n; j++) {
        for (int64_t i = 0; i < N; i++) {
            double want = m.bias ? ((float *)m.bias)[i] : 0, terms = 0;
            for (int64_t k = 0; k < K; k++) {
                want += m.meaning[i * K + k] * x[j * K + k];
                terms += fabs(m.meaning[i * K + k]) * 2; /* inputs are at most 2 */
            }
            CHECK(close_to(y[j * N + i], want, terms));
        }
    }
    for (int threads = 2; threads <= 3; threads++) {
        CHECK(linear(&m.stored, format, N, K, x, n, again, threads) == 0);
        CHECK(memcmp(y, again, (size_t)(n * N) * 4) == 0);
    }
    /* Layers that share their inputs: the same twice, and one without outputs between. */
    float *third = malloc((size_t)(n * N) * 4);
    memset(again, 0, (size_t)(n * N) * 4);
    const folkmoot_layer layers[] = {{m.stored, N, again}, {m.stored, 0, NULL}, {m.stored, N, third}};
    for (int threads = 1; threads <= 3; threads++) {
        memset(third, 0, (size_t)(n * N) * 4);
        CHECK(folkmoot_linear(layers, 3, format, FOLKMOOT_FLOAT32, K, x, FOLKMOOT_FLOAT32, FOLKMOOT_FLOAT32, n, threads) == 0);
        CHECK(memcmp(y, again, (size_t)(n * N) * 4) == 0 && memcmp(y, third, (size_t)(n * N) * 4) == 0);
    }
    drop(&m), free(x), free(y), free(again), free(third);
}

/* Makes a float the bfloat16 towards zero from it, and returns that one's bits. */
static uint16_t upper_half(float *x) {
    uint32_t bits;
    memcpy(&bits, x, 4);
    bits &= 0xffff0000u;
    memcpy(x, &bits, 4);
    return (uint16_t)(bits >> 16);
}

static double silu(double g) { return g / (1 + exp(-g)); }

/* Rows of `count` units of `unit` bytes in panels, in a new buffer. */
static void *in_panels(const void *from, int64_t N, int64_t count, int64_t unit) {
    char *to = malloc((size_t)(N * count * unit));
    for (int64_t i = 0; i < N; i++) {
        for (int64_t u = 0; u < count; u++) {
            const int64_t panel = i / FOLKMOOT_PANEL_ROWS, place = i % FOLKMOOT_PANEL_ROWS;
            memcpy(to + ((panel * count + u) * FOLKMOOT_PANEL_ROWS + place) * unit, (const char *)from + (i * count + u) * unit, (size_t)unit);
        }
    }
    return to;
}

/* What `from` has, in panels. */
static folkmoot_matrix packed(const matrix *from, int format, int64_t N, int64_t K, void **kept) {
    folkmoot_matrix to = from->stored;
    const int64_t groups = K / FOLKMOOT_GROUP;
    to.values = kept[0] = in_panels(from->values, N, to.step / 4, 4);
    if (format != FOLKMOOT_INT8_CHANNEL) to.scales = kept[1] = in_panels(from->scales, N, groups, format == FOLKMOOT_MXFP4 ? 1 : 2);
    if (format == FOLKMOOT_INT4) to.minima = kept[2] = in_panels(from->minima, N, groups, 2);
    return to;
}

/* Gate and up of I rows each, one row of each in turn. */
static matrix in_turn(const matrix *gate, const matrix *up, int format, int64_t I, int64_t K) {
    matrix both = {.stored = gate->stored};
    const size_t row = (size_t)both.stored.step, size = format == FOLKMOOT_MXFP4 ? 1 : format == FOLKMOOT_INT8_CHANNEL ? 4 : 2;
    const size_t few = size * (format == FOLKMOOT_INT8_CHANNEL ? 1 : (size_t)(K / FOLKMOOT_GROUP));
    both.values = malloc(2 * (size_t)I * row), both.scales = malloc(2 * (size_t)I * few), both.minima = malloc(2 * (size_t)I * few);
    for (int64_t i = 0; i < 2 * I; i++) {
        const matrix *from = i % 2 ? up : gate;
        memcpy((char *)both.values + (size_t)i * row, (char *)from->values + (size_t)(i / 2) * row, row);
        memcpy((char *)both.scales + (size_t)i * few, (char *)from->scales + (size_t)(i / 2) * few, few);
        if (from->minima) memcpy((char *)both.minima + (size_t)i * few, (char *)from->minima + (size_t)(i / 2) * few, few);
    }
    both.stored.values = both.values, both.stored.scales = both.scales, both.stored.minima = both.minima;
    return both;
}

/* Two experts, one of them with no rows at all, SwiGLU. */
static void check_feed_forward(int format, int layout, int hidden_format, int64_t H, int64_t I, int64_t R) {
    const int by_columns = layout == FOLKMOOT_BY_COLUMNS, interleaved = layout == FOLKMOOT_INTERLEAVED_PANELS;
    const int by_panels = layout == FOLKMOOT_BY_PANELS || interleaved;
    void *panels[3][3] = {{NULL}};
    matrix both = {.values = NULL};
    matrix gate = make(format, I, H, 0), up = make(format, I, H, 0), down = make(format, H, I, 1);
    folkmoot_form form = {H, I, format, FOLKMOOT_FLOAT32, layout, FOLKMOOT_SWIGLU, 1.702f, 7.0f};
    folkmoot_expert expert = {gate.stored, up.stored, down.stored};
    const int64_t n = (R + 1) / 2, size = format == FOLKMOOT_FLOAT32 ? 4 : 2;
    void *turned[3] = {NULL, NULL, NULL};
    if (by_panels) {
        if (interleaved) both = in_turn(&gate, &up, format, I, H);
        expert.gate = interleaved ? packed(&both, format, 2 * I, H, panels[0]) : packed(&gate, format, I, H, panels[0]);
        expert.up = packed(&up, format, I, H, panels[1]), expert.down = packed(&down, format, H, I, panels[2]);
        if (interleaved) expert.up = (folkmoot_matrix){NULL, NULL, NULL, NULL, 0, 0, 0};
    }
    if (by_columns) {
        matrix *all[] = {&gate, &up, &down};
        folkmoot_matrix *to[] = {&expert.gate, &expert.up, &expert.down};
        for (int m = 0; m < 3; m++) {
            const int64_t N = m < 2 ? I : H, K = m < 2 ? H : I;
            char *data = turned[m] = malloc((size_t)(N * K * size));
            for (int64_t i = 0; i < N * K; i++) {
                memcpy(data + (i % K * N + i / K) * size, (char *)all[m]->values + i * size, (size_t)size);
            }
            to[m]->values = data, to[m]->step = N * size;
        }
    }
    int64_t *rows = malloc((size_t)n * 8);
    float *gates = malloc((size_t)n * 4), *x = malloc((size_t)(R * H) * 4);
    float *output = calloc((size_t)(R * H), 4), *again = calloc((size_t)(R * H), 4);
    for (int64_t j = 0; j < n; j++) rows[j] = R - 1 - 2 * j, gates[j] = random_float();
    uint16_t *halves = malloc((size_t)(R * H) * 2);
    for (int64_t e = 0; e < R * H; e++) x[e] = random_float();
    if (hidden_format == FOLKMOOT_BFLOAT16) {
        for (int64_t e = 0; e < R * H; e++) halves[e] = upper_half(x + e);
    }
    const void *hidden = hidden_format == FOLKMOOT_BFLOAT16 ? (void *)halves : (void *)x;
    float *opened_gate = malloc((size_t)(n * I) * 4), *opened_up = malloc((size_t)(n * I) * 4);
    folkmoot_group groups[] = {{&expert, rows, gates, 0, NULL, NULL}, {&expert, rows, gates, n, opened_gate, opened_up}};
    CHECK(folkmoot_feed_forward(&form, groups, 2, hidden, hidden_format, R, output, 1) == 0);
    double *inner = malloc((size_t)I * sizeof(double)), *off = malloc((size_t)I * sizeof(double));
    for (int64_t j = 0; j < n; j++) {
        const float *row = x + rows[j] * H;
        double largest = 1;
        for (int64_t i = 0; i < I; i++) {
            double g = 0, u = 0, gate_terms = 0, up_terms = 0;
            for (int64_t k = 0; k < H; k++) {
                g += gate.meaning[i * H + k] * row[k], u += up.meaning[i * H + k] * row[k];
                gate_terms += fabs(gate.meaning[i * H + k]) * 2, up_terms += fabs(up.meaning[i * H + k]) * 2;
            }
            inner[i] = silu(g) * u;
            CHECK(fabs(opened_gate[j * I + i] - g) <= 5e-5 * (gate_terms + 1) && fabs(opened_up[j * I + i] - u) <= 5e-5 * (up_terms + 1));
            /* Inputs of 16 bits a group: what the products may be off by is of the size of their terms, not of their sum. */
            off[i] = 5e-5 * (gate_terms * (fabs(u) + 1) + up_terms * (fabs(g) + 1));
            largest = fabs(inner[i]) > largest ? fabs(inner[i]) : largest;
        }
        for (int64_t h = 0; h < H; h++) {
            double want = ((float *)down.bias)[h], terms = 1, allowed = 0;
            for (int64_t i = 0; i < I; i++) {
                want += down.meaning[h * I + i] * inner[i];
                allowed += fabs(down.meaning[h * I + i]) * off[i];
                terms += fabs(down.meaning[h * I + i]) * largest;
            }
            CHECK(fabs(output[rows[j] * H + h] - want * gates[j]) <= (5e-4 * terms + allowed) * (fabs(gates[j]) + 0.01));
        }
    }
    groups[1].gate = groups[1].up = NULL;
    CHECK(folkmoot_feed_forward(&form, groups, 2, hidden, hidden_format, R, again, 2) == 0);
    CHECK(memcmp(output, again, (size_t)(R * H) * 4) == 0);
    rows[0] = R;
    CHECK(folkmoot_feed_forward(&form, groups, 2, hidden, hidden_format, R, again, 2) == FOLKMOOT_WRONG_ROW);
    for (int m = 0; m < 9; m++) free(panels[m / 3][m % 3]);
    drop(&both), drop(&gate), drop(&up), drop(&down), free(turned[0]), free(turned[1]), free(turned[2]);
    free(rows), free(gates), free(x), free(halves), free(output), free(again), free(inner), free(off);
    free(opened_gate), free(opened_up);
}

static void check_norm(int64_t n, int64_t K) {
    float *x = malloc((size_t)(n * K) * 4), *weight = malloc((size_t)K * 4), *y = malloc((size_t)(n * K) * 4);
    for (int64_t e = 0; e < n * K; e++) x[e] = random_float();
    for (int64_t e = 0; e < K; e++) weight[e] = random_float();
    CHECK(folkmoot_rms_norm(x, weight, FOLKMOOT_FLOAT32, n, K, 1e-5f, y) == 0);
    for (int64_t j = 0; j < n; j++) {
        double squares = 0;
        for (int64_t k = 0; k < K; k++) squares += (double)x[j * K + k] * x[j * K + k];
        for (int64_t k = 0; k < K; k++) {
            CHECK(close_to(y[j * K + k], weight[k] * x[j * K + k] / sqrt(squares / (double)K + 1e-5), 0.01));
        }
    }
    CHECK(folkmoot_rms_norm(x, weight, FOLKMOOT_INT8, n, K, 1e-5f, y) == FOLKMOOT_NOT_HERE);
    free(x), free(weight), free(y);
}

static void *caller(void *unused) {
    (void)unused;
    matrix m = make(FOLKMOOT_FLOAT32, 33, 65, 0);
    float x[65], y[33], again[33];
    for (int k = 0; k < 65; k++) x[k] = 0.5f;
    CHECK(linear(&m.stored, FOLKMOOT_FLOAT32, 33, 65, x, 1, y, 1) == 0);
    for (int time = 0; time < 300; time++) {
        CHECK(linear(&m.stored, FOLKMOOT_FLOAT32, 33, 65, x, 1, again, 1 + time % 4) == 0);
        CHECK(memcmp(y, again, sizeof y) == 0);
    }
    drop(&m);
    return NULL;
}

static void check_callers(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, caller, NULL) == 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    const pid_t child = fork();
    if (child == 0) {
        caller(NULL);
        _exit(0);
    }
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

int main(int count, char **arguments) {
    static const char *const isas[] = {"amx", "avx512", "avx2", "neon"};
    static const int64_t sizes[] = {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 100, 127, 128, 129, 200, 300};
    static const int64_t grouped[] = {32, 64, 96, 128, 160, 256, 480, 512, 544, 1056};
    int ran = 0;
    (void)arguments;
    for (int isa = 0; isa < 4; isa++) {
        if (folkmoot_force_isa(isas[isa]) != 0) continue;
        ran++;
        for (int format = 0; format < FOLKMOOT_FORMATS; format++) {
            const int groups = format == FOLKMOOT_INT8 || format == FOLKMOOT_INT4 || format == FOLKMOOT_MXFP4;
            const int64_t *inner = groups ? grouped : sizes;
            const int kinds = groups ? sizeof grouped / sizeof *grouped : sizeof sizes / sizeof *sizes;
            for (int k = 0; k < kinds; k++) {
                for (int64_t n = 1; n <= 9; n++) check_linear(format, sizes[(k * 5 + n) % 14], inner[k], n);
                check_feed_forward(format, FOLKMOOT_BY_ROWS, FOLKMOOT_FLOAT32, inner[k], inner[(k + 3) % kinds], 1 + k % 5);
                check_feed_forward(format, FOLKMOOT_BY_ROWS, FOLKMOOT_BFLOAT16, inner[k], inner[(k + 3) % kinds], 1 + k * 13 % 80);
                if (folkmoot_has_panels(format) && inner[k] % 32 == 0 && inner[(k + 3) % kinds] % 32 == 0) {
                    for (int layout = FOLKMOOT_BY_PANELS; layout <= FOLKMOOT_INTERLEAVED_PANELS; layout++) {
                        check_feed_forward(format, layout, FOLKMOOT_FLOAT32, inner[k], inner[(k + 3) % kinds], 1 + k * 3 % 11);
                        check_feed_forward(format, layout, FOLKMOOT_BFLOAT16, inner[k], inner[(k + 3) % kinds], 1 + k * 13 % 80);
                    }
                }
                if (format <= FOLKMOOT_FLOAT16) {
                    check_feed_forward(format, FOLKMOOT_BY_COLUMNS, FOLKMOOT_FLOAT32, inner[k], inner[(k + 3) % kinds], 1 + k % 20);
                }
            }
        }
        check_linear(FOLKMOOT_BFLOAT16, 21, 5000, 7); /* x outgrows the first cache: rows side by side */
        check_linear(FOLKMOOT_FP8_BLOCK, 140, 5000, 3);
        check_feed_forward(FOLKMOOT_FLOAT32, FOLKMOOT_BY_COLUMNS, FOLKMOOT_FLOAT32, 600, 1100, 3); /* more columns than go at once */
        check_feed_forward(FOLKMOOT_INT8, FOLKMOOT_BY_ROWS, FOLKMOOT_FLOAT32, 32, 32, 1100); /* slices and batches */
        if (folkmoot_has_panels(FOLKMOOT_INT8_CHANNEL)) {
            check_feed_forward(FOLKMOOT_INT8_CHANNEL, FOLKMOOT_BY_PANELS, FOLKMOOT_BFLOAT16, 544, 1056, 19);
            check_feed_forward(FOLKMOOT_INT4, FOLKMOOT_BY_PANELS, FOLKMOOT_BFLOAT16, 64, 1056, 600);
        }
        for (int k = 0; k < (int)(sizeof sizes / sizeof *sizes); k++) check_norm(1 + k % 3, sizes[k]);
        check_norm(2, 2048);
        check_feed_forward(FOLKMOOT_BFLOAT16, FOLKMOOT_BY_ROWS, FOLKMOOT_BFLOAT16, 64, 96, 1100); /* the same by tiles */
        check_feed_forward(FOLKMOOT_INT4, FOLKMOOT_BY_ROWS, FOLKMOOT_BFLOAT16, 64, 1056, 600);
        if (count < 2) check_callers();
        printf("%s: agrees\n", folkmoot_isa());
    }
    CHECK(folkmoot_force_isa("nothing") == FOLKMOOT_NOT_HERE);
    CHECK(folkmoot_force_isa(NULL) == 0);
    return ran == 0;
}
