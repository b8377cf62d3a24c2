/* A few threads that wait for work: awake for a moment after each piece, asleep after that.
 *
 * Guarantees: one caller's work runs at a time, the caller works too, and all of it has been done when the call returns.
 * A second caller that comes meanwhile does all of its work itself instead of waiting.
 */
#include "folkmoot_kernels.h"

#include <pthread.h>
#include <stdatomic.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define RELAX() _mm_pause()
#else
#define RELAX() ((void)0)
#endif

enum { MOST_THREADS = 64, SPINS = 1000 };

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int started;
static atomic_uint_fast64_t generation;
static atomic_int left;
static int job_count;
static void (*job_task)(void *, int, int);
static void *job_context;
static uint_fast64_t born[MOST_THREADS]; /* the generation that each thread must not take for new work */

static void *work(void *argument) {
    const int index = (int)(intptr_t)argument;
    uint_fast64_t seen = born[index];
    for (;;) {
        for (int spin = 0; spin < SPINS && atomic_load(&generation) == seen; spin++) RELAX();
        if (atomic_load(&generation) == seen) {
            pthread_mutex_lock(&lock);
            while (atomic_load(&generation) == seen) pthread_cond_wait(&wake, &lock);
            pthread_mutex_unlock(&lock);
        }
        /* A thread that this piece has no part for still answers, so that none can miss a generation. */
        seen = atomic_load(&generation);
        if (index < job_count) job_task(job_context, index, job_count);
        atomic_fetch_sub(&left, 1);
    }
    return NULL;
}

static void start(int count) {
    for (; started < count - 1; started++) {
        pthread_t thread;
        born[started + 1] = atomic_load(&generation);
        if (pthread_create(&thread, NULL, work, (void *)(intptr_t)(started + 1)) != 0) return;
        pthread_detach(thread);
    }
}

void folkmoot_parallel(void (*task)(void *, int, int), void *context, int count) {
    if (count > MOST_THREADS) count = MOST_THREADS;
    if (count <= 1 || pthread_mutex_trylock(&busy) != 0) {
        task(context, 0, 1);
        return;
    }
    if (started < count - 1) start(count);
    if (started < count - 1) count = started + 1;
    job_task = task;
    job_context = context;
    job_count = count;
    atomic_store(&left, started);
    pthread_mutex_lock(&lock);
    atomic_fetch_add(&generation, 1);
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
    task(context, 0, count);
    while (atomic_load(&left) > 0) RELAX();
    pthread_mutex_unlock(&busy);
}
