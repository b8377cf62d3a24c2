/* The backend for AVX2 with FMA and F16C: any x86-64-v3 machine. */
#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define INLINE static inline __attribute__((always_inline))
#define BACKEND folkmoot_avx2
#define BACKEND_NAME "avx2"
#define BACKEND_VECTORS "vectors_avx2.h"
#define BACKEND_PANELS NULL
#include "instance.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
