/* Vectors of 4 lanes, on what every aarch64 processor has. */
#include <arm_neon.h>

typedef float32x4_t floats;
typedef int32x4_t ints;

enum {
    LANES = 4,
    MOST_ROWS_AT_ONCE = 8, /* x rows that one weight row meets at once, so that all sums have a register */
    TALL = 4               /* weight rows read side by side where x does not fit the first cache */
};

INLINE floats zeros(void) { return vdupq_n_f32(0.0f); }
INLINE floats all_of(float value) { return vdupq_n_f32(value); }
INLINE floats load_floats(const void *from) { return vreinterpretq_f32_u8(vld1q_u8(from)); }
INLINE void store_floats(void *to, floats a) { vst1q_u8(to, vreinterpretq_u8_f32(a)); }
INLINE floats add(floats a, floats b) { return vaddq_f32(a, b); }
INLINE floats sub(floats a, floats b) { return vsubq_f32(a, b); }
INLINE floats mul(floats a, floats b) { return vmulq_f32(a, b); }
INLINE floats divide(floats a, floats b) { return vdivq_f32(a, b); }
INLINE floats multiply_add(floats a, floats b, floats c) { return vfmaq_f32(c, a, b); }
INLINE floats least(floats a, floats b) { return vminq_f32(a, b); }
INLINE floats most(floats a, floats b) { return vmaxq_f32(a, b); }
INLINE float sum_of(floats a) { return vaddvq_f32(a); }
INLINE floats nearest(floats a) { return vrndnq_f32(a); }
/* 2^n for whole n that a float can hold. */
INLINE floats power_of_two(floats n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
}

INLINE ints no_ints(void) { return vdupq_n_s32(0); }
INLINE ints load_ints(const void *from) { return vreinterpretq_s32_u8(vld1q_u8(from)); }
INLINE ints either(ints a, ints b) { return veorq_s32(a, b); }
INLINE floats to_floats(ints a) { return vcvtq_f32_s32(a); }

INLINE floats even_bfloat16(ints a) { return vreinterpretq_f32_s32(vshlq_n_s32(a, 16)); }
INLINE floats odd_bfloat16(ints a) { return vreinterpretq_f32_s32(vandq_s32(a, vdupq_n_s32((int32_t)0xffff0000u))); }
INLINE floats load_float16(const void *from) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from))); }
INLINE void store_float16(void *to, floats a) { vst1_u8(to, vreinterpret_u8_f16(vcvt_f16_f32(a))); }
/* Byte `part` of each lane as e4m3, times 2^-120. */
INLINE floats fp8_part(ints a, const int part) {
    const ints top = vshlq_s32(a, vdupq_n_s32(24 - 8 * part));
    return vreinterpretq_f32_s32(vandq_s32(vshrq_n_s32(top, 4), vdupq_n_s32((int32_t)0x87f00000u)));
}

/* c plus the products of int16, lane l of the upper half with lane l of the lower: all of one vector stay in it. */
INLINE ints add_products(ints c, ints a, ints b) {
    const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
    return vmlal_high_s16(vmlal_s16(c, vget_low_s16(x), vget_low_s16(y)), x, y);
}
/* As many int8 as there are int16 in a vector. */
INLINE ints widen_int8(const void *from) { return vreinterpretq_s32_s16(vmovl_s8(vreinterpret_s8_u8(vld1_u8(from)))); }
/* Four bits of each int16: `part` 0 is the lowest. */
INLINE ints nibbles(ints a, const int part) {
    const uint16x8_t low = vshlq_u16(vreinterpretq_u16_s32(a), vdupq_n_s16((int16_t)(-4 * part)));
    return vreinterpretq_s32_u16(vandq_u16(low, vdupq_n_u16(15)));
}
/* The same four bits as e2m1, doubled: whole numbers. */
INLINE ints nibbles_e2m1(ints a, const int part) {
    /* Indices beyond the table become 0; the table is raised by 12, so that a byte is a whole int16. */
    static const uint8_t numbers[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
    const uint16x8_t index = vorrq_u16(vreinterpretq_u16_s32(nibbles(a, part)), vdupq_n_u16(0x8000));
    const uint8x16_t raised = vqtbl1q_u8(vld1q_u8(numbers), vreinterpretq_u8_u16(index));
    return vreinterpretq_s32_s16(vsubq_s16(vreinterpretq_s16_u8(raised), vdupq_n_s16(12)));
}
/* A quarter of the lanes, each four times over. */
INLINE floats spread_quarter(floats a, const int quarter) {
    const uint8x16_t index = vreinterpretq_u8_u32(vdupq_n_u32(0x03020100u + 0x04040404u * (unsigned)quarter));
    return vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(a), index));
}
/* 2^(scale - 128) of e8m0 bytes; below what a float can hold as a normal number, 0. */
INLINE floats load_half_e8m0(const uint8_t *from) {
    const int32_t exponents[4] = {from[0], from[1], from[2], from[3]};
    const ints one = vdupq_n_s32(1);
    return vreinterpretq_f32_s32(vshlq_n_s32(vsubq_s32(vmaxq_s32(vld1q_s32(exponents), one), one), 23));
}
