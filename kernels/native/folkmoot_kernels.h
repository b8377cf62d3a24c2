/* The native kernels' plain C interface: no Python, no torch, so it compiles in seconds and breaks with neither.
 *
 * Guarantees: nothing here keeps a pointer after it returns, or reads or writes outside the arrays given. Sums are
 * float32, and each output is the same bit for bit whatever the number of threads. Functions may be called from several
 * threads at once, and in a process that was forked.
 *
 * Letters: R rows, n rows of one group, K inner size, N outer size, H hidden size, I intermediate size, G groups of 32.
 */
#ifndef FOLKMOOT_KERNELS_H
#define FOLKMOOT_KERNELS_H

#include <stdint.h>

#define FOLKMOOT_KERNELS_ABI 8

#if defined(__GNUC__)
#define FOLKMOOT_EXPORT __attribute__((visibility("default")))
#else
#define FOLKMOOT_EXPORT
#endif

/* What a function returns. */
enum folkmoot_status {
    FOLKMOOT_OK = 0,
    FOLKMOOT_NOT_HERE = -1,  /* this processor has none of the instruction sets, or the request is of no known kind */
    FOLKMOOT_NO_MEMORY = -2, /* no memory for scratch */
    FOLKMOOT_WRONG_ROW = -3  /* a group names a row that does not exist */
};

/* How numbers are stored; inputs and biases have one of the first three. */
enum folkmoot_format {
    FOLKMOOT_FLOAT32,
    FOLKMOOT_BFLOAT16,
    FOLKMOOT_FLOAT16,
    FOLKMOOT_FP8_BLOCK,    /* e4m3fn without NaN; one float32 scale a square of 128 x 128 */
    FOLKMOOT_INT8,         /* one float16 scale a group of 32 inputs */
    FOLKMOOT_INT8_CHANNEL, /* one float32 scale a row */
    FOLKMOOT_INT4,         /* two a byte, low half first; float16 scale and minimum a group of 32 inputs */
    FOLKMOOT_MXFP4,        /* e2m1, two a byte, low half first; one e8m0 scale a group of 32 inputs */
    FOLKMOOT_FORMATS
};

enum folkmoot_activation {
    FOLKMOOT_SWIGLU,
    FOLKMOOT_GEGLU_TANH,
    FOLKMOOT_CLAMPED_SWIGLU,
    FOLKMOOT_RELU_SQUARED /* has no gate */
};

/* How an expert's matrices lie in memory. */
enum folkmoot_layout {
    FOLKMOOT_BY_ROWS,            /* each output's weights side by side */
    FOLKMOOT_BY_COLUMNS,         /* each input's weights side by side; float formats alone */
    FOLKMOOT_INTERLEAVED_COLUMNS, /* the same, and `gate` holds gate and up in alternate columns */
    FOLKMOOT_BY_PANELS,          /* whole numbers by rows, FOLKMOOT_PANEL_ROWS of which share a panel: see folkmoot_matrix */
    FOLKMOOT_INTERLEAVED_PANELS  /* the same, and `gate` holds gate and up in alternate rows */
};

/* Outputs of a panel, and inputs of a group. */
enum { FOLKMOOT_PANEL_ROWS = 16, FOLKMOOT_GROUP = 32 };

/* A matrix of N outputs and K inputs.
 *
 * By panels, N is a multiple of FOLKMOOT_PANEL_ROWS and K one of FOLKMOOT_GROUP, and rows lie side by side. The bytes of 16
 * rows are then one panel: first four bytes of values of each of the 16 in turn, then the next four of each; among scales,
 * and minima, the first of each of the 16, then the second of each. (One scale a row is where it was.) */
typedef struct {
    const void *values;
    const void *scales; /* NULL in float formats */
    const void *minima; /* int4 alone */
    const void *bias;   /* or NULL */
    int64_t step;       /* bytes from one row of values to the next (by columns: from one input to the next) */
    int64_t scale_step; /* scales, and minima, from one row (fp8: from 128 rows) to the next */
    int64_t bias_step;  /* elements from one output's bias to the next */
} folkmoot_matrix;

/* One expert: [I, H], [I, H] and [H, I]. Without a gate, `gate` is not looked at. */
typedef struct {
    folkmoot_matrix gate, up, down;
} folkmoot_expert;

/* One linear layer, and where its outputs go. */
typedef struct {
    folkmoot_matrix w;
    int64_t N;
    void *y;
} folkmoot_layer;

/* One expert and the n rows that go through it. */
typedef struct {
    const folkmoot_expert *expert;
    const int64_t *rows; /* [n], none twice */
    const float *gates;  /* [n] */
    int64_t n;
    float *gate, *up; /* [n, I] each, where what goes into the activation is left; or NULL. Without a gate, `gate` is not looked at. */
} folkmoot_group;

/* What all experts of a call have in common. */
typedef struct {
    int64_t hidden, intermediate;
    int32_t format, bias_format, layout, activation;
    float alpha, limit; /* of the clamped SwiGLU */
} folkmoot_form;

/* FOLKMOOT_KERNELS_ABI of the library that was built. */
FOLKMOOT_EXPORT int folkmoot_abi(void);

/* The instruction set that computes: "amx" (with AVX512 beside it), "avx512", "avx2", "neon", or NULL when this processor has none of them. */
FOLKMOOT_EXPORT const char *folkmoot_isa(void);

/* Computes with the named instruction set from now on (NULL: the best). Not while another call runs. */
FOLKMOOT_EXPORT int folkmoot_force_isa(const char *name);

/* 1 when the instruction set that computes has kernels for matrices of a format by panels; otherwise 0. */
FOLKMOOT_EXPORT int folkmoot_has_panels(int format);

/* output[rows[j], :] += gates[j] * expert(hidden[rows[j], :]) for each group in turn and each of its j.
 * hidden [R, H] of type hidden_format, output [R, H]. */
FOLKMOOT_EXPORT int folkmoot_feed_forward(const folkmoot_form *form, const folkmoot_group *groups, int64_t group_count,
                                          const void *hidden, int32_t hidden_format, int64_t R, float *output,
                                          int threads);

/* y[n, N] = x[n, K] W[N, K]^T (+ bias) of each of the layers; x of type x_format, y of y_format, W of format, by rows; the
 * sum is rounded once, and not at all where y is float32. */
FOLKMOOT_EXPORT int folkmoot_linear(const folkmoot_layer *layers, int64_t count, int32_t format, int32_t bias_format,
                                    int64_t K, const void *x, int32_t x_format, int32_t y_format, int64_t n, int threads);

/* y[j, :] = weight * round(x[j, :] / sqrt(mean of x[j, :]^2 + epsilon)) for n rows of K, all of the float type `format`: the
 * mean is a float64 sum, and what stands in brackets is rounded before it is multiplied, as transformers has it. */
FOLKMOOT_EXPORT int folkmoot_rms_norm(const void *x, const void *weight, int32_t format, int64_t n, int64_t K, float epsilon,
                                      void *y);

/* 1 when any of e4m3fn bytes is NaN, which the kernels for FOLKMOOT_FP8_BLOCK do not look for; otherwise 0. */
FOLKMOOT_EXPORT int folkmoot_fp8_has_nan(const uint8_t *values, int64_t size);

/* Reads memory as fast as it can be read, and returns what depends on every 64-byte line of it: the measure. */
FOLKMOOT_EXPORT uint64_t folkmoot_read(const void *memory, int64_t bytes, int threads);

#endif
