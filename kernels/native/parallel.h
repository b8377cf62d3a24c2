/* Threads by request, and how they share out work. */
#ifndef FOLKMOOT_PARALLEL_H
#define FOLKMOOT_PARALLEL_H

#include <stdatomic.h>
#include <stdint.h>

/* The threads that run one piece of work together. */
typedef struct folkmoot_team folkmoot_team;

/* How many they are; each has an index below that. */
int folkmoot_team_size(const folkmoot_team *team);

/* Returns when every thread of the team has called it as often: what each wrote before, all see after. */
void folkmoot_meet(folkmoot_team *team);

/* Runs task(context, team, index) in up to `count` threads, the caller's among them, and returns when all have returned. */
void folkmoot_parallel(void (*task)(void *context, folkmoot_team *team, int index), void *context, int count);

/* The most threads of one team. */
enum { FOLKMOOT_MOST_THREADS = 64 };

/* Bytes of weights for each thread: with less, waking it costs more than it brings. */
#ifndef FOLKMOOT_WORTH_BYTES
#define FOLKMOOT_WORTH_BYTES (128 << 10)
#endif

/* `threads` or fewer, for so many bytes of weights. */
static inline int folkmoot_worth(int64_t bytes, int threads) {
    const int64_t most = bytes / FOLKMOOT_WORTH_BYTES + 1;
    const int fewer = most < threads ? (int)most : threads;
    return fewer < 1 ? 1 : fewer > FOLKMOOT_MOST_THREADS ? FOLKMOOT_MOST_THREADS : fewer;
}

/* The next share begin..end of 0..size, each but the last a multiple of `grain`: large ones first, so that they are few,
 * small ones last, so that nobody waits long. Returns 0 when nothing is left. `taken` starts at 0. */
int folkmoot_take(atomic_llong *taken, int64_t size, int64_t grain, const folkmoot_team *team, int64_t *begin, int64_t *end);

#endif
