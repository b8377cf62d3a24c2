/* Which backend computes: the best that this processor has, unless a caller chose another. */
#include "backend.h"
#include "parallel.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif
#ifdef FOLKMOOT_HAS_TILES
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static const folkmoot_backend *_Atomic forced;
static atomic_int without_tiles;

#if defined(__x86_64__) && defined(__GNUC__)

static int runs_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}

static int runs_avx2(void) {
    /* The processors that have AVX2 and FMA have F16C, which not every compiler can ask for. */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static const folkmoot_backend *named(const char *name) {
    if (runs_avx512() && (name == NULL || strcmp(name, "avx512") == 0)) return &folkmoot_avx512;
    if (runs_avx2() && (name == NULL || strcmp(name, "avx2") == 0)) return &folkmoot_avx2;
    return NULL;
}

#elif defined(__aarch64__) && defined(__GNUC__)

static const folkmoot_backend *named(const char *name) {
    return name == NULL || strcmp(name, "neon") == 0 ? &folkmoot_neon : NULL;
}

#else

static const folkmoot_backend *named(const char *name) {
    (void)name;
    return NULL;
}

#endif

#ifdef FOLKMOOT_HAS_TILES

/* Tiles are for a process that has asked for them: 18 is what arch_prctl calls their registers. */
static int asked_for_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    const unsigned needed = 1u << 22 | 1u << 24; /* bfloat16, tiles */
    return runs_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & needed) == needed &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}

static pthread_once_t tiles_once = PTHREAD_ONCE_INIT;
static const folkmoot_tiles *tiles;

static void find_tiles(void) { tiles = asked_for_tiles() ? &folkmoot_amx : NULL; }

static const folkmoot_tiles *all_tiles(void) {
    pthread_once(&tiles_once, find_tiles);
    return tiles;
}

#else

static const folkmoot_tiles *all_tiles(void) { return NULL; }

#endif

const folkmoot_tiles *folkmoot_current_tiles(void) { return without_tiles ? NULL : all_tiles(); }

const folkmoot_tiles *folkmoot_current_panel_tiles(void) {
#ifdef FOLKMOOT_HAS_TILES
    return folkmoot_current_tiles() != NULL ? &folkmoot_amx_panels : NULL;
#else
    return NULL;
#endif
}

const folkmoot_backend *folkmoot_current_backend(void) {
    const folkmoot_backend *chosen = forced;
    return chosen != NULL ? chosen : named(NULL);
}

int folkmoot_has_panels(int format) {
    const folkmoot_backend *backend = folkmoot_current_backend();
    return backend != NULL && backend->panels != NULL && format >= 0 && format < FOLKMOOT_FORMATS && backend->panels->products[format] != NULL;
}

int folkmoot_abi(void) { return FOLKMOOT_KERNELS_ABI; }

const char *folkmoot_isa(void) {
    const folkmoot_backend *backend = folkmoot_current_backend();
    if (backend == NULL) return NULL;
    return folkmoot_current_tiles() != NULL ? "amx" : backend->name;
}

int folkmoot_force_isa(const char *name) {
    const int with_tiles = name == NULL || strcmp(name, "amx") == 0;
    if (name != NULL && with_tiles && all_tiles() == NULL) return FOLKMOOT_NOT_HERE;
    const folkmoot_backend *backend = with_tiles ? NULL : named(name);
    if (!with_tiles && backend == NULL) return FOLKMOOT_NOT_HERE;
    forced = backend;
    without_tiles = !with_tiles;
    return FOLKMOOT_OK;
}

int folkmoot_fp8_has_nan(const uint8_t *values, int64_t size) {
    uint8_t any = 0;
    for (int64_t i = 0; i < size; i++) any |= (uint8_t)((values[i] & 0x7f) == 0x7f);
    return any;
}

typedef struct {
    const folkmoot_backend *backend;
    const char *memory;
    int64_t bytes;
    atomic_llong taken;
    atomic_ullong result;
} read_job;

static void read_task(void *context, folkmoot_team *team, int index) {
    read_job *job = context;
    int64_t begin, end;
    (void)index;
    while (folkmoot_take(&job->taken, job->bytes, 1 << 16, team, &begin, &end)) {
        atomic_fetch_xor(&job->result, job->backend->read(job->memory + begin, end - begin));
    }
}

uint64_t folkmoot_read(const void *memory, int64_t bytes, int threads) {
    read_job job = {folkmoot_current_backend(), memory, bytes, 0, 0};
    if (job.backend == NULL) return 0;
    folkmoot_parallel(read_task, &job, threads);
    return job.result;
}
