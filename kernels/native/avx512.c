/* The backend for AVX512 with VNNI. */
#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#endif

#define INLINE static inline __attribute__((always_inline))
#define BACKEND folkmoot_avx512
#define BACKEND_NAME "avx512"
#define BACKEND_VECTORS "vectors_avx512.h"
#define BACKEND_PANELS &folkmoot_avx512_panels
#include "instance.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
