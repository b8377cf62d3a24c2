/* A few threads that wait for work: awake for a moment after each piece, asleep after that.
 *
 * Guarantees: one caller's work runs at a time, the caller works too, and all of it has been done when the call returns. A
 * second caller that comes meanwhile does all of its work itself instead of waiting. Nobody spins for longer than
 * AWAKE_NS, be it for work or for each other, so that a thread that has to wait leaves its core to whoever it waits for.
 * A forked child starts with no threads and makes its own.
 */
#include "parallel.h"

#include <pthread.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define RELAX() _mm_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

enum { AWAKE_NS = 30000, LOOKS = 16 };

/* A number that threads wait for to change. */
typedef struct {
    atomic_uint value;
    atomic_int sleepers;
    pthread_mutex_t lock;
    pthread_cond_t changed;
} signal_number;

#define SIGNAL_NUMBER {0, 0, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER}

struct folkmoot_team {
    int size;
    atomic_int arrived;
    signal_number meetings;
};

typedef struct {
    signal_number turns;
    unsigned seen; /* the turn before the thread was made */
} worker;

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static worker workers[FOLKMOOT_MOST_THREADS]; /* the caller is the first: index 0 is never used */
static int started = 1;
static folkmoot_team pool_team;
static signal_number done;
static atomic_int left;
static void (*job_task)(void *, folkmoot_team *, int);
static void *job_context;

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * (int64_t)1000000000 + time.tv_nsec;
}

static void raise_number(signal_number *number) {
    atomic_fetch_add(&number->value, 1);
    /* A sleeper counts itself before it looks at the number for the last time, so one of the two sees the other. */
    if (atomic_load(&number->sleepers) > 0) {
        pthread_mutex_lock(&number->lock);
        pthread_cond_broadcast(&number->changed);
        pthread_mutex_unlock(&number->lock);
    }
}

static void wait_for_change(signal_number *number, unsigned seen) {
    const int64_t until = now_ns() + AWAKE_NS;
    do {
        for (int look = 0; look < LOOKS; look++) {
            if (atomic_load(&number->value) != seen) return;
            RELAX();
        }
    } while (now_ns() < until);
    pthread_mutex_lock(&number->lock);
    atomic_fetch_add(&number->sleepers, 1);
    while (atomic_load(&number->value) == seen) pthread_cond_wait(&number->changed, &number->lock);
    atomic_fetch_sub(&number->sleepers, 1);
    pthread_mutex_unlock(&number->lock);
}

static void reset_number(signal_number *number) {
    atomic_store(&number->value, 0);
    atomic_store(&number->sleepers, 0);
    pthread_mutex_init(&number->lock, NULL);
    pthread_cond_init(&number->changed, NULL);
}

/* Only the thread that forked lives on in a child. */
static void forget_threads(void) {
    pthread_mutex_init(&busy, NULL);
    for (int i = 0; i < FOLKMOOT_MOST_THREADS; i++) reset_number(&workers[i].turns);
    reset_number(&pool_team.meetings);
    reset_number(&done);
    started = 1;
}

static void prepare(void) {
    forget_threads();
    pthread_atfork(NULL, NULL, forget_threads);
}

static void *work(void *argument) {
    const int index = (int)(intptr_t)argument;
    unsigned seen = workers[index].seen;
    for (;;) {
        wait_for_change(&workers[index].turns, seen);
        seen++;
        job_task(job_context, &pool_team, index);
        if (atomic_fetch_sub(&left, 1) == 1) raise_number(&done);
    }
    return NULL;
}

static void start(int count) {
    for (; started < count; started++) {
        pthread_t thread;
        workers[started].seen = atomic_load(&workers[started].turns.value);
        if (pthread_create(&thread, NULL, work, (void *)(intptr_t)started) != 0) return;
        pthread_detach(thread);
    }
}

void folkmoot_parallel(void (*task)(void *, folkmoot_team *, int), void *context, int count) {
    if (count > FOLKMOOT_MOST_THREADS) count = FOLKMOOT_MOST_THREADS;
    pthread_once(&once, prepare);
    if (count <= 1 || pthread_mutex_trylock(&busy) != 0) {
        folkmoot_team alone = {.size = 1};
        task(context, &alone, 0);
        return;
    }
    start(count);
    if (count > started) count = started;
    pool_team.size = count;
    atomic_store(&pool_team.arrived, 0);
    job_task = task;
    job_context = context;
    atomic_store(&left, count - 1);
    const unsigned before = atomic_load(&done.value);
    for (int i = 1; i < count; i++) raise_number(&workers[i].turns);
    task(context, &pool_team, 0);
    if (count > 1) wait_for_change(&done, before);
    pthread_mutex_unlock(&busy);
}

int folkmoot_team_size(const folkmoot_team *team) { return team->size; }

void folkmoot_meet(folkmoot_team *team) {
    if (team->size == 1) return;
    const unsigned seen = atomic_load(&team->meetings.value);
    if (atomic_fetch_add(&team->arrived, 1) + 1 == team->size) {
        atomic_store(&team->arrived, 0);
        raise_number(&team->meetings);
    } else {
        wait_for_change(&team->meetings, seen);
    }
}

int folkmoot_take(atomic_llong *taken, int64_t size, int64_t grain, const folkmoot_team *team, int64_t *begin, int64_t *end) {
    long long first = atomic_load(taken);
    while (first < size) {
        const int64_t remaining = size - first;
        int64_t share = team->size == 1 ? remaining : remaining * 3 / (4 * team->size) / grain * grain;
        if (share < grain) share = grain;
        if (share > remaining) share = remaining;
        if (atomic_compare_exchange_weak(taken, &first, first + share)) {
            *begin = first;
            *end = first + share;
            return 1;
        }
    }
    return 0;
}
