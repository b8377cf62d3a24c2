/* The experts of one layer on ragged rows, gated and pre-summed: one reading of each weight for all rows that need it.
 *
 * The threads go through all experts together, in three steps between which they meet: inputs are packed; gate, up and what
 * stands after them are computed, each thread some of the I; and each thread adds all experts' outputs to some of the H,
 * so that every sum has one order. Experts of very many rows come in slices, slices in batches of bounded scratch.
 */
#include "backend.h"
#include "parallel.h"

#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum {
    SLICE_ROWS = 256,     /* rows of one expert that share a reading of its weights */
    BATCH_ROWS = 1024,    /* rows of all slices of a batch */
    COLUMN_GRAIN = 512,   /* outputs that one thread takes at least, by columns; by rows it is FOLKMOOT_ROWS */
    MOST_TOGETHER = 2048, /* outputs that one thread computes before it turns to another matrix, */
    MOST_SUMS = 4096,     /* or fewer, so that with all their rows they are about this many, */
    SOON = 4096           /* whose first bytes are on their way by then */
};

/* Some of the rows of a group. `start` is its first row among all of its batch, in which it has room for `room`. */
typedef struct {
    const folkmoot_expert *expert;
    const int64_t *rows;
    const float *gates;
    float *gate, *up;
    int64_t n, room, start;
    const char *inputs;
} slice;

typedef struct {
    const folkmoot_backend *backend;
    const folkmoot_tiles *tiles; /* NULL when these weights or inputs are not for tiles */
    const folkmoot_form *form;
    slice *slices;
    int64_t count, pairs, R;
    const char *hidden;
    int hidden_format, by_columns, by_panels;
    float *output;
    int64_t hidden_step, inner_step, scratch_bytes;
    char *packed_hidden; /* [R], each hidden_step long */
    char *inputs;        /* [pairs], the same rows in the order of the slices */
    float *inner;        /* [pairs, I] */
    char *packed_inner;  /* [pairs], each inner_step long */
    char *scratch;
    atomic_llong packed, gathered, first, between, second;
} batch;

static int64_t grain_of(const batch *job) { return job->by_columns ? COLUMN_GRAIN : FOLKMOOT_ROWS; }

static int hidden_terms(const batch *job) { return job->hidden_format == FOLKMOOT_BFLOAT16 ? 1 : 2; }

static int is_tiled(const batch *job, int64_t n) { return job->tiles != NULL && n >= job->tiles->fewest[job->form->format]; }

static int64_t whole_panels(int64_t rows) { return (rows + FOLKMOOT_TILE_ROWS - 1) / FOLKMOOT_TILE_ROWS * FOLKMOOT_TILE_ROWS; }

static int64_t together(const batch *job, int64_t n) {
    const int64_t grain = is_tiled(job, n) ? 2 * FOLKMOOT_TILE_ROWS : grain_of(job), few = MOST_SUMS / n / grain * grain;
    return few > MOST_TOGETHER ? MOST_TOGETHER : few > grain ? few : grain;
}

/* Asks for where reading will go on, which no prefetch ahead of the reading knows of. */
static void soon(const batch *job, const folkmoot_matrix *matrix, int64_t row) {
    if (job->by_columns) return;
    const char *values = (const char *)matrix->values + row * matrix->step;
    for (int64_t at = 0; at < SOON; at += 64) __builtin_prefetch(values + at, 0, 2);
}

/* Whether a row's outputs lie side by side, not an output's rows. */
static int is_across(const batch *job, int64_t n) { return job->by_panels || is_tiled(job, n); }

/* Whether `gate` holds gate and up in turn. */
static int is_interleaved(const batch *job) {
    return job->form->layout == FOLKMOOT_INTERLEAVED_COLUMNS || job->form->layout == FOLKMOOT_INTERLEAVED_PANELS;
}

static int input_format(const batch *job) { return job->by_columns ? FOLKMOOT_FLOAT32 : job->form->format; }

/* One row of K inputs for vectors. */
static void pack(const batch *job, const float *x, int64_t K, char *to) {
    if (job->by_panels) job->backend->panels->pack(job->form->format, x, K, to);
    else job->backend->pack(input_format(job), x, K, to);
}

static void pack_hidden(batch *job, folkmoot_team *team, float *wide) {
    const int64_t H = job->form->hidden, bytes = H * folkmoot_float_bytes(job->hidden_format);
    int64_t begin, end;
    while (folkmoot_take(&job->packed, job->R, 1, team, &begin, &end)) {
        for (int64_t r = begin; r < end; r++) {
            job->backend->widen(job->hidden_format, job->hidden + r * bytes, wide, H);
            pack(job, wide, H, job->packed_hidden + r * job->hidden_step);
        }
    }
}

static void gather_tiled(batch *job, slice *part, float *wide) {
    const int64_t H = job->form->hidden, bytes = H * folkmoot_float_bytes(job->hidden_format);
    char *to = job->inputs + part->start * job->hidden_step;
    for (int64_t j = 0; j < part->n; j++) {
        job->backend->widen(job->hidden_format, job->hidden + part->rows[j] * bytes, wide, H);
        job->tiles->pack_row(wide, H, j, part->n, 1, to);
    }
    part->inputs = to;
}

/* Rows that lie side by side are used where they are. */
static void gather(batch *job, folkmoot_team *team, float *wide) {
    int64_t begin, end;
    while (folkmoot_take(&job->gathered, job->count, 1, team, &begin, &end)) {
        for (slice *part = job->slices + begin; part < job->slices + end; part++) {
            if (is_tiled(job, part->n)) {
                gather_tiled(job, part, wide);
                continue;
            }
            int64_t j = 1;
            while (j < part->n && part->rows[j] == part->rows[0] + j) j++;
            if (j == part->n) {
                part->inputs = job->packed_hidden + part->rows[0] * job->hidden_step;
                continue;
            }
            char *to = job->inputs + part->start * job->hidden_step;
            part->inputs = to;
            for (j = 0; j < part->n; j++) {
                memcpy(to + j * job->hidden_step, job->packed_hidden + part->rows[j] * job->hidden_step,
                       (size_t)job->hidden_step);
            }
        }
    }
}

static float bias_at(const batch *job, const folkmoot_matrix *matrix, int64_t i) {
    const int64_t size = folkmoot_float_bytes(job->form->bias_format);
    float bias;
    job->backend->widen(job->form->bias_format, (const char *)matrix->bias + i * matrix->bias_step * size, &bias, 1);
    return bias;
}

/* to[(i - begin) * n + j], biased, whatever the matrix's layout; to[j * (end - begin) + i - begin] of what is across. */
static void outputs(const batch *job, const folkmoot_matrix *matrix, int64_t begin, int64_t end, const folkmoot_inputs *x,
                    float *to, float *scratch) {
    const int64_t n = x->n, width = end - begin;
    if (is_tiled(job, x->n)) {
        job->tiles->products[job->form->format](matrix, begin, end, x, to);
    } else if (job->by_panels) {
        job->backend->panels->products[job->form->format](matrix, begin, end, x, to);
    } else if (!job->by_columns) {
        job->backend->products[job->form->format](matrix, begin, end, x, to);
    } else {
        float *turned = n == 1 ? to : scratch;
        job->backend->column_products(job->form->format, matrix, begin, end, x, turned);
        if (n > 1) {
            for (int64_t j = 0; j < n; j++) {
                for (int64_t i = 0; i < width; i++) to[i * n + j] = turned[j * width + i];
            }
        }
    }
    if (matrix->bias == NULL) return;
    const int64_t across = is_across(job, n) ? 1 : n, down = is_across(job, n) ? width : 1;
    for (int64_t i = 0; i < width; i++) {
        const float bias = bias_at(job, matrix, begin + i);
        for (int64_t j = 0; j < n; j++) to[i * across + j * down] += bias;
    }
}

/* to[j * I + i] = from[i * n + j]; where n is known to the compiler it takes several at once. */
INLINE void turn(const float *from, float *to, int64_t width, int64_t I, const int64_t n) {
    for (int64_t j = 0; j < n; j++) {
        for (int64_t i = 0; i < width; i++) to[j * I + i] = from[i * n + j];
    }
}

/* Puts outputs begin..end of all rows of a slice, as `outputs` leaves them, into rows of I numbers. */
static void leave(const batch *job, const slice *part, int64_t begin, int64_t end, const float *from, float *to) {
    const int64_t n = part->n, width = end - begin, I = job->form->intermediate;
    to += begin;
    if (n == 1 || is_across(job, n)) {
        for (int64_t j = 0; j < n; j++) memcpy(to + j * I, from + j * width, (size_t)width * sizeof(float));
        return;
    }
    switch (n) {
        case 2: turn(from, to, width, I, 2); break;
        case 3: turn(from, to, width, I, 3); break;
        case 4: turn(from, to, width, I, 4); break;
        default: turn(from, to, width, I, n);
    }
}

/* Gate, up and activation of some outputs of one slice. */
static void inner_of(const batch *job, const slice *part, int64_t begin, int64_t end, float *scratch) {
    const folkmoot_form *form = job->form;
    const folkmoot_inputs x = {part->inputs, part->n, form->hidden, job->hidden_step, hidden_terms(job)};
    const int64_t n = part->n, width = end - begin;
    float *gate = scratch, *up = gate + width * n, *rest = up + width * n;
    if (is_interleaved(job)) {
        float *both = rest, *turned = rest + 2 * width * n;
        outputs(job, &part->expert->gate, 2 * begin, 2 * end, &x, both, turned);
        if (is_across(job, n)) {
            for (int64_t i = 0; i < width * n; i++) gate[i] = both[2 * i], up[i] = both[2 * i + 1];
        } else for (int64_t i = 0; i < width; i++) {
            memcpy(gate + i * n, both + 2 * i * n, (size_t)n * sizeof(float));
            memcpy(up + i * n, both + (2 * i + 1) * n, (size_t)n * sizeof(float));
        }
    } else {
        if (form->activation != FOLKMOOT_RELU_SQUARED) {
            soon(job, &part->expert->up, begin);
            outputs(job, &part->expert->gate, begin, end, &x, gate, rest);
        }
        outputs(job, &part->expert->up, begin, end, &x, up, rest);
    }
    if (part->gate != NULL && form->activation != FOLKMOOT_RELU_SQUARED) leave(job, part, begin, end, gate, part->gate);
    if (part->up != NULL) leave(job, part, begin, end, up, part->up);
    job->backend->activate(form, gate, up, up, width * n);
    leave(job, part, begin, end, up, job->inner + part->start * form->intermediate);
}

static void first_products(batch *job, folkmoot_team *team, float *scratch) {
    const int64_t I = job->form->intermediate, grain = grain_of(job), padded = (I + grain - 1) / grain * grain;
    int64_t begin, end;
    while (folkmoot_take(&job->first, job->count * padded, grain, team, &begin, &end)) {
        while (begin < end) {
            const slice *part = job->slices + begin / padded;
            const int64_t base = begin / padded * padded, i = begin - base;
            const int64_t limit = end - base < I ? end - base : I, width = together(job, part->n);
            const int64_t last = limit - i < width ? limit : i + width;
            if (i < last) inner_of(job, part, i, last, scratch);
            begin = last >= I ? base + padded : base + last;
        }
    }
}

static void pack_inner(batch *job, folkmoot_team *team) {
    const int64_t I = job->form->intermediate, grain = job->tiles != NULL ? FOLKMOOT_TILE_ROWS : 1;
    int64_t begin, end;
    while (folkmoot_take(&job->between, job->pairs, grain, team, &begin, &end)) {
        for (const slice *part = job->slices; part < job->slices + job->count; part++) {
            const int64_t first = begin > part->start ? begin : part->start;
            const int64_t last = end < part->start + part->n ? end : part->start + part->n;
            char *packed = job->packed_inner + part->start * job->inner_step;
            for (int64_t p = first; p < last; p++) {
                const float *inner = job->inner + p * I;
                if (is_tiled(job, part->n)) job->tiles->pack_row(inner, I, p - part->start, part->n, 2, packed);
                else pack(job, inner, I, packed + (p - part->start) * job->inner_step);
            }
        }
    }
}

static void second_products(batch *job, folkmoot_team *team, float *scratch) {
    const int64_t H = job->form->hidden;
    int64_t begin, end;
    while (folkmoot_take(&job->second, H, grain_of(job), team, &begin, &end)) {
        for (const slice *part = job->slices; part < job->slices + job->count; part++) {
            const int64_t n = part->n, width = together(job, n);
            if (part + 1 < job->slices + job->count) soon(job, &part[1].expert->down, begin);
            const folkmoot_inputs x = {job->packed_inner + part->start * job->inner_step, n, job->form->intermediate,
                                       job->inner_step, 2};
            for (int64_t i = begin; i < end; i += width) {
                const int64_t last = end - i < width ? end : i + width;
                outputs(job, &part->expert->down, i, last, &x, scratch, scratch + (last - i) * n);
                for (int64_t j = 0; j < n; j++) {
                    float *to = job->output + part->rows[j] * H + i;
                    const int64_t from = is_across(job, n) ? j * (last - i) : j, apart = is_across(job, n) ? 1 : n;
                    if (apart == 1) for (int64_t k = 0; k < last - i; k++) to[k] += part->gates[j] * scratch[from + k];
                    else for (int64_t k = 0; k < last - i; k++) to[k] += part->gates[j] * scratch[from + k * apart];
                }
            }
        }
    }
}

static void batch_task(void *context, folkmoot_team *team, int index) {
    batch *job = context;
    float *scratch = (float *)(job->scratch + index * job->scratch_bytes);
    pack_hidden(job, team, scratch);
    folkmoot_meet(team);
    gather(job, team, scratch);
    folkmoot_meet(team);
    first_products(job, team, scratch);
    folkmoot_meet(team);
    pack_inner(job, team);
    folkmoot_meet(team);
    second_products(job, team, scratch);
}

static int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

/* Bytes of a packed row, or a row's part of a panel, whichever is more. */
static int64_t row_bytes(const batch *job, int64_t K) {
    const int64_t vectors = job->backend->packed_bytes(input_format(job), K);
    const int64_t panels = job->tiles == NULL ? 0 : aligned(folkmoot_panel_bytes(K, 2) / FOLKMOOT_TILE_ROWS);
    return panels > vectors ? panels : vectors;
}

/* Takes slices from `from` on while they fit; returns how many. */
static int64_t fill(batch *job, slice *from, int64_t available) {
    int64_t count = 0;
    job->slices = from;
    job->pairs = 0;
    while (count < available && (count == 0 || job->pairs + from[count].room <= BATCH_ROWS)) {
        /* Panels begin at whole panels, so that two threads never pack the same one. */
        if (is_tiled(job, from[count].n)) job->pairs = whole_panels(job->pairs);
        from[count].start = job->pairs;
        job->pairs += from[count].room;
        count++;
    }
    return job->count = count;
}

static int run(batch *job, slice *slices, int64_t count, int threads) {
    const folkmoot_form *form = job->form;
    const int64_t H = form->hidden, I = form->intermediate;
    int64_t total = 0, floats = H;
    for (int64_t i = 0; i < count; i++) {
        const int64_t sums = 6 * together(job, slices[i].n) * slices[i].n;
        total += slices[i].room + (is_tiled(job, slices[i].n) ? FOLKMOOT_TILE_ROWS : 0);
        floats = sums > floats ? sums : floats;
    }
    const int64_t most = BATCH_ROWS + FOLKMOOT_TILE_ROWS, room = total < most ? total : most;
    job->hidden_step = row_bytes(job, H);
    job->inner_step = row_bytes(job, I);
    job->scratch_bytes = aligned(floats * (int64_t)sizeof(float));
    const int64_t inner_bytes = aligned(room * I * (int64_t)sizeof(float));
    const int64_t bytes = (job->R + room) * job->hidden_step + inner_bytes + room * job->inner_step + threads * job->scratch_bytes;
    char *memory = aligned_alloc(64, (size_t)bytes);
    if (memory == NULL) return FOLKMOOT_NO_MEMORY;
    job->packed_hidden = memory;
    job->inputs = job->packed_hidden + job->R * job->hidden_step;
    job->inner = (float *)(job->inputs + room * job->hidden_step);
    job->packed_inner = (char *)job->inner + inner_bytes;
    job->scratch = job->packed_inner + room * job->inner_step;
    for (int64_t done = 0; done < count;) {
        done += fill(job, slices + done, count - done);
        job->gathered = job->first = job->between = job->second = 0;
        folkmoot_parallel(batch_task, job, threads);
    }
    free(memory);
    return FOLKMOOT_OK;
}

int folkmoot_feed_forward(const folkmoot_form *form, const folkmoot_group *groups, int64_t group_count, const void *hidden,
                          int32_t hidden_format, int64_t R, float *output, int threads) {
    batch job = {.backend = folkmoot_current_backend(), .form = form, .R = R, .hidden = hidden, .output = output};
    job.hidden_format = hidden_format;
    job.by_columns = form->layout == FOLKMOOT_BY_COLUMNS || form->layout == FOLKMOOT_INTERLEAVED_COLUMNS;
    job.by_panels = form->layout == FOLKMOOT_BY_PANELS || form->layout == FOLKMOOT_INTERLEAVED_PANELS;
    if (job.backend == NULL || form->format < 0 || form->format >= FOLKMOOT_FORMATS || hidden_format > FOLKMOOT_FLOAT16 ||
        (job.by_columns && form->format > FOLKMOOT_FLOAT16)) {
        return FOLKMOOT_NOT_HERE;
    }
    if (job.by_panels && (!folkmoot_has_panels(form->format) || form->hidden % FOLKMOOT_GROUP != 0 || form->intermediate % FOLKMOOT_GROUP != 0)) {
        return FOLKMOOT_NOT_HERE;
    }
    const folkmoot_tiles *tiles = job.by_panels ? folkmoot_current_panel_tiles() : folkmoot_current_tiles();
    if (tiles != NULL && tiles->products[form->format] != NULL && hidden_format == FOLKMOOT_BFLOAT16 && !job.by_columns &&
        form->hidden % FOLKMOOT_TILE_INPUTS == 0 && form->intermediate % FOLKMOOT_TILE_INPUTS == 0) {
        job.tiles = tiles;
    }
    int64_t count = 0;
    for (int64_t g = 0; g < group_count; g++) {
        for (int64_t j = 0; j < groups[g].n; j++) {
            if (groups[g].rows[j] < 0 || groups[g].rows[j] >= R) return FOLKMOOT_WRONG_ROW;
        }
        count += (groups[g].n + SLICE_ROWS - 1) / SLICE_ROWS;
    }
    if (count == 0) return FOLKMOOT_OK;
    slice *slices = malloc((size_t)count * sizeof(slice));
    if (slices == NULL) return FOLKMOOT_NO_MEMORY;
    int64_t next = 0;
    for (int64_t g = 0; g < group_count; g++) {
        for (int64_t j = 0; j < groups[g].n; j += SLICE_ROWS) {
            const int64_t n = groups[g].n - j < SLICE_ROWS ? groups[g].n - j : SLICE_ROWS;
            /* A panel of tiles has all of its rows. */
            const int64_t room = is_tiled(&job, n) ? whole_panels(n) : n;
            float *gate = groups[g].gate == NULL ? NULL : groups[g].gate + j * form->intermediate;
            float *up = groups[g].up == NULL ? NULL : groups[g].up + j * form->intermediate;
            slices[next++] = (slice){groups[g].expert, groups[g].rows + j, groups[g].gates + j, gate, up, n, room, 0, NULL};
        }
    }
    int64_t weights = 0;
    for (int64_t i = 0; i < count; i++) {
        weights += 3 * form->intermediate * folkmoot_value_bytes(form->format, form->hidden) * (slices[i].n + 3) / 4;
    }
    const int status = run(&job, slices, count, folkmoot_worth(weights, threads));
    free(slices);
    return status;
}
