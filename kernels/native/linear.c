/* Linear layers by rows on the same few rows of inputs. */
#include "backend.h"
#include "parallel.h"

#include <stdlib.h>

/* Outputs that one thread holds in scratch at a time. */
enum { TOGETHER = 4 * FOLKMOOT_ROWS };

typedef struct {
    const folkmoot_backend *backend;
    const folkmoot_tiles *tiles; /* NULL when vectors compute */
    const folkmoot_layer *layers;
    int format, bias_format, x_format, y_format;
    int64_t count, n, K, packed_step;
    const char *x;
    char *packed, *scratch;
    int64_t scratch_bytes;
    atomic_llong packed_rows, taken;
} linear_job;

static void pack_rows(linear_job *job, folkmoot_team *team, float *wide) {
    int64_t begin, end;
    /* Two threads never pack the same panel. */
    const int64_t row_bytes = job->K * folkmoot_float_bytes(job->x_format), grain = job->tiles != NULL ? FOLKMOOT_TILE_ROWS : 1;
    while (folkmoot_take(&job->packed_rows, job->n, grain, team, &begin, &end)) {
        for (int64_t j = begin; j < end; j++) {
            job->backend->widen(job->x_format, job->x + j * row_bytes, wide, job->K);
            if (job->tiles != NULL) job->tiles->pack_row(wide, job->K, j, job->n, 1, job->packed);
            else job->backend->pack(job->format, wide, job->K, job->packed + j * job->packed_step);
        }
    }
}

/* Outputs of a layer, filled up so that the next layer's begin with a whole share. */
static int64_t padded(const folkmoot_layer *layer) { return (layer->N + FOLKMOOT_ROWS - 1) / FOLKMOOT_ROWS * FOLKMOOT_ROWS; }

static void outputs(const linear_job *job, const folkmoot_layer *layer, int64_t begin, int64_t end, float *scratch) {
    const folkmoot_backend *backend = job->backend;
    const folkmoot_inputs x = {job->packed, job->n, job->K, job->packed_step,
                               job->x_format == FOLKMOOT_BFLOAT16 ? 1 : 2};
    const int64_t rows = end - begin, n = job->n, size = folkmoot_float_bytes(job->y_format);
    float *sums = scratch, *row = scratch + TOGETHER * n, *bias = row + TOGETHER;
    if (job->tiles != NULL) job->tiles->products[job->format](&layer->w, begin, end, &x, sums);
    else backend->products[job->format](&layer->w, begin, end, &x, sums);
    for (int64_t i = 0; i < rows; i++) bias[i] = 0.0f;
    if (layer->w.bias != NULL) {
        const int64_t at = begin * folkmoot_float_bytes(job->bias_format);
        backend->widen(job->bias_format, (const char *)layer->w.bias + at, bias, rows);
    }
    for (int64_t j = 0; j < n; j++) {
        const int64_t from = job->tiles != NULL ? j * rows : j, apart = job->tiles != NULL ? 1 : n;
        for (int64_t i = 0; i < rows; i++) row[i] = sums[from + i * apart] + bias[i];
        backend->narrow(job->y_format, row, (char *)layer->y + (j * layer->N + begin) * size, rows);
    }
}

static void linear_task(void *context, folkmoot_team *team, int index) {
    linear_job *job = context;
    float *scratch = (float *)(job->scratch + index * job->scratch_bytes);
    int64_t begin, end;
    pack_rows(job, team, scratch);
    folkmoot_meet(team);
    int64_t all = 0;
    for (int64_t l = 0; l < job->count; l++) all += padded(job->layers + l);
    while (folkmoot_take(&job->taken, all, FOLKMOOT_ROWS, team, &begin, &end)) {
        int64_t base = 0;
        for (const folkmoot_layer *layer = job->layers; layer < job->layers + job->count; base += padded(layer++)) {
            const int64_t first = begin > base ? begin - base : 0, last = end - base < layer->N ? end - base : layer->N;
            for (int64_t i = first; i < last; i += TOGETHER) {
                outputs(job, layer, i, last - i < TOGETHER ? last : i + TOGETHER, scratch);
            }
        }
    }
}

int folkmoot_linear(const folkmoot_layer *layers, int64_t count, int32_t format, int32_t bias_format, int64_t K, const void *x,
                    int32_t x_format, int32_t y_format, int64_t n, int threads) {
    const folkmoot_backend *backend = folkmoot_current_backend();
    if (backend == NULL || format < 0 || format >= FOLKMOOT_FORMATS || x_format > FOLKMOOT_FLOAT16 || y_format > FOLKMOOT_FLOAT16) return FOLKMOOT_NOT_HERE;
    int64_t all = 0;
    for (int64_t l = 0; l < count; l++) all += layers[l].N;
    if (n <= 0 || all <= 0) return FOLKMOOT_OK;
    threads = folkmoot_worth(all * folkmoot_value_bytes(format, K) * (n + 3) / 4, threads);
    linear_job job = {.backend = backend, .layers = layers, .format = format, .bias_format = bias_format};
    job.x_format = x_format, job.y_format = y_format;
    job.count = count, job.n = n, job.K = K, job.x = x;
    const folkmoot_tiles *tiles = folkmoot_current_tiles();
    if (tiles != NULL && tiles->products[format] != NULL && x_format == FOLKMOOT_BFLOAT16 && K % FOLKMOOT_TILE_INPUTS == 0 &&
        n >= tiles->fewest[format]) {
        job.tiles = tiles;
    }
    const int64_t panels = (n + FOLKMOOT_TILE_ROWS - 1) / FOLKMOOT_TILE_ROWS;
    job.packed_step = backend->packed_bytes(format, K);
    const int64_t packed_bytes = job.tiles == NULL ? n * job.packed_step : (panels * folkmoot_panel_bytes(K, 1) + 63) / 64 * 64;
    const int64_t floats = K > TOGETHER * (n + 2) ? K : TOGETHER * (n + 2);
    job.scratch_bytes = (floats * (int64_t)sizeof(float) + 63) / 64 * 64;
    job.packed = aligned_alloc(64, (size_t)(packed_bytes + threads * job.scratch_bytes));
    if (job.packed == NULL) return FOLKMOOT_NO_MEMORY;
    job.scratch = job.packed + packed_bytes;
    folkmoot_parallel(linear_task, &job, threads);
    free(job.packed);
    return FOLKMOOT_OK;
}
