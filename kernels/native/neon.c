/* The backend for aarch64: NEON is part of every such processor. */
#if defined(__aarch64__) && defined(__GNUC__)

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define BACKEND folkmoot_neon
#define BACKEND_NAME "neon"
#define BACKEND_VECTORS "vectors_neon.h"
#define BACKEND_PANELS NULL
#include "instance.h"

#endif
