"""The Triton kernels: products of blocks of rows with the matrices of their experts, in every weight format.

Guarantees: a weight's small whole or float number goes into the product exactly as it is stored, and its scale is applied to
the float32 sum over the inputs that share it; sums are float32; the inner activations are rounded once, to the type that is
computed in. Any sizes work: what lies beyond a matrix's edge counts as zero and is not written.

Letters: S slots, H hidden size, I intermediate size, N rows and K columns of a matrix.
"""

from __future__ import annotations

import triton
import triton.language as tl

FLOAT32, BFLOAT16, FLOAT16 = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
INT8_CHANNEL, FP8_BLOCK = tl.constexpr(3), tl.constexpr(4)
INT8, INT4, MXFP4 = tl.constexpr(5), tl.constexpr(6), tl.constexpr(7)
"""The last three have groups of 32 inputs; the last two, 4 bits."""
SWIGLU, GEGLU_TANH, CLAMPED_SWIGLU, RELU_SQUARED = (
    tl.constexpr(0),
    tl.constexpr(1),
    tl.constexpr(2),
    tl.constexpr(3),
)


@triton.jit
def _e4m3(code):
    """float8_e4m3fn out of its byte, without hardware for it."""
    exponent = ((code >> 3) & 15).to(tl.int32)
    mantissa = (code & 7).to(tl.int32)
    normal = (((exponent + 120) << 23) | (mantissa << 20)).to(tl.float32, bitcast=True)
    size = tl.where(exponent == 0, mantissa.to(tl.float32) * 0.001953125, normal)
    size = tl.where((code & 127) == 127, float("nan"), size)
    return tl.where(code > 127, -size, size)


@triton.jit
def _e2m1(code):
    """A number of 4 bits: sign, two bits of exponent, one of mantissa."""
    exponent = ((code >> 1) & 3).to(tl.int32)
    mantissa = (code & 1).to(tl.int32)
    halves = tl.where(exponent == 0, mantissa, ((2 + mantissa) << exponent) >> 1)
    size = halves.to(tl.float32) * 0.5
    return tl.where(code > 7, -size, size)


@triton.jit
def _tile(address, n, k, n_in, k_in, K, FORMAT: tl.constexpr, COMPUTE: tl.constexpr):
    """The stored numbers of some rows and columns of a matrix, [k, n], before any scale."""
    inside = k_in[:, None] & n_in[None, :]
    if FORMAT >= INT4:
        at = n[None, :].to(tl.int64) * (K // 2) + (k[:, None] // 2)
        packed = tl.load(address.to(tl.pointer_type(tl.uint8)) + at, mask=inside, other=0)
        code = (packed >> ((k[:, None] % 2) * 4).to(tl.uint8)) & 15
        if FORMAT == INT4:
            return code.to(tl.float32).to(COMPUTE)
        return _e2m1(code).to(COMPUTE)
    at = n[None, :].to(tl.int64) * K + k[:, None]
    if FORMAT == FLOAT32:
        numbers = tl.load(address.to(tl.pointer_type(tl.float32)) + at, mask=inside, other=0)
    elif FORMAT == BFLOAT16:
        numbers = tl.load(address.to(tl.pointer_type(tl.bfloat16)) + at, mask=inside, other=0)
    elif FORMAT == FLOAT16:
        numbers = tl.load(address.to(tl.pointer_type(tl.float16)) + at, mask=inside, other=0)
    elif FORMAT == FP8_BLOCK:
        numbers = _e4m3(tl.load(address.to(tl.pointer_type(tl.uint8)) + at, mask=inside, other=0))
    else:
        numbers = tl.load(address.to(tl.pointer_type(tl.int8)) + at, mask=inside, other=0).to(tl.float32)
    return numbers.to(COMPUTE)


@triton.jit
def _product(
    x,
    x_in,
    address,
    values,
    scales,
    minima,
    n,
    N,
    K,
    FORMAT: tl.constexpr,
    COMPUTE: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
):
    """Rows times a matrix, [HEIGHT, WIDTH] float32.

    Args:
        x: Pointers to the rows' first inputs. [HEIGHT]
        x_in: Which of them are rows. [HEIGHT]
        address: The expert's buffer.
        values, scales, minima: Where the matrix lies in it.
        n: The outputs wanted, rows of the matrix. [WIDTH]
    """
    n_in = n < N
    total = tl.zeros((HEIGHT, WIDTH), dtype=tl.float32)
    for start in range(0, K, STEP):
        k = start + tl.arange(0, STEP)
        k_in = k < K
        rows = tl.load(x[:, None] + k[None, :], mask=x_in[:, None] & k_in[None, :], other=0).to(COMPUTE)
        numbers = _tile(address + values, n, k, n_in, k_in, K, FORMAT, COMPUTE)
        part = tl.dot(rows, numbers, input_precision="ieee", out_dtype=tl.float32)
        if FORMAT >= INT8:
            group = n.to(tl.int64) * (K // 32) + start // 32
            if FORMAT == MXFP4:
                power = tl.load(
                    (address + scales).to(tl.pointer_type(tl.uint8)) + group, mask=n_in, other=127
                )
                # The bits of 2^(power - 127); the least of them is below float32's normal numbers.
                bits = tl.where(power == 0, 0x400000, power.to(tl.int32) << 23)
                part = part * bits.to(tl.float32, bitcast=True)[None, :]
            else:
                scale = tl.load(
                    (address + scales).to(tl.pointer_type(tl.float16)) + group, mask=n_in, other=0
                )
                part = part * scale.to(tl.float32)[None, :]
            if FORMAT == INT4:
                least = tl.load(
                    (address + minima).to(tl.pointer_type(tl.float16)) + group, mask=n_in, other=0
                )
                part += tl.sum(rows.to(tl.float32), axis=1)[:, None] * least.to(tl.float32)[None, :]
        elif FORMAT == FP8_BLOCK:
            square = (n // 128).to(tl.int64) * tl.cdiv(K, 128) + start // 128
            scale = tl.load((address + scales).to(tl.pointer_type(tl.float32)) + square, mask=n_in, other=0)
            part = part * scale[None, :]
        total += part
    if FORMAT == INT8_CHANNEL:
        scale = tl.load((address + scales).to(tl.pointer_type(tl.float32)) + n, mask=n_in, other=0)
        total = total * scale[None, :]
    return total


@triton.jit
def _sigmoid(z):
    small = tl.exp(-tl.abs(z))
    return tl.where(z < 0, small, 1.0) / (1 + small)


@triton.jit
def _activated(gate, up, ACTIVATION: tl.constexpr, alpha, limit):
    if ACTIVATION == RELU_SQUARED:
        positive = tl.maximum(up, 0.0)
        return positive * positive
    if ACTIVATION == CLAMPED_SWIGLU:
        gate = tl.minimum(gate, limit)
        up = tl.minimum(tl.maximum(up, -limit), limit)
        return gate * _sigmoid(alpha * gate) * (up + 1)
    if ACTIVATION == GEGLU_TANH:
        # (1 + tanh z) / 2 = sigmoid(2z), with z = sqrt(2 / pi) (g + 0.044715 g^3)
        return gate * _sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)) * up
    return gate * _sigmoid(gate) * up


@triton.jit
def inner_kernel(
    hidden,
    inner,
    addresses,
    block_groups,
    slot_rows,
    size,
    intermediate,
    gate_values,
    gate_scales,
    gate_minima,
    gate_bias,
    up_values,
    up_scales,
    up_minima,
    up_bias,
    alpha,
    limit,
    FORMAT: tl.constexpr,
    COMPUTE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BIASED: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
):
    """inner [S, I] = activation(gate of hidden's rows, up of hidden's rows), one block of slots and WIDTH of I a program."""
    block = tl.program_id(0)
    address = tl.load(addresses + tl.load(block_groups + block))
    slots = block * HEIGHT + tl.arange(0, HEIGHT)
    rows = tl.load(slot_rows + slots)
    x_in = rows >= 0
    x = hidden + tl.where(x_in, rows, 0).to(tl.int64) * size
    n = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    up = _product(
        x,
        x_in,
        address,
        up_values,
        up_scales,
        up_minima,
        n,
        intermediate,
        size,
        FORMAT,
        COMPUTE,
        HEIGHT,
        WIDTH,
        STEP,
    )
    gate = up
    if ACTIVATION != RELU_SQUARED:
        gate = _product(
            x,
            x_in,
            address,
            gate_values,
            gate_scales,
            gate_minima,
            n,
            intermediate,
            size,
            FORMAT,
            COMPUTE,
            HEIGHT,
            WIDTH,
            STEP,
        )
    if BIASED:
        gate += tl.load(
            (address + gate_bias).to(tl.pointer_type(tl.float32)) + n, mask=n < intermediate, other=0
        )[None, :]
        up += tl.load(
            (address + up_bias).to(tl.pointer_type(tl.float32)) + n, mask=n < intermediate, other=0
        )[None, :]
    answer = _activated(gate, up, ACTIVATION, alpha, limit)
    at = slots[:, None].to(tl.int64) * intermediate + n[None, :]
    tl.store(inner + at, answer.to(inner.dtype.element_ty), mask=(n < intermediate)[None, :])


@triton.jit
def down_kernel(
    inner,
    answer,
    addresses,
    block_groups,
    slot_gates,
    size,
    intermediate,
    down_values,
    down_scales,
    down_minima,
    down_bias,
    FORMAT: tl.constexpr,
    COMPUTE: tl.constexpr,
    BIASED: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
):
    """answer [S, H] = gate of the slot times down of inner, one block of slots and WIDTH of H a program."""
    block = tl.program_id(0)
    address = tl.load(addresses + tl.load(block_groups + block))
    slots = block * HEIGHT + tl.arange(0, HEIGHT)
    n = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    x = inner + slots.to(tl.int64) * intermediate
    every = slots >= 0
    y = _product(
        x,
        every,
        address,
        down_values,
        down_scales,
        down_minima,
        n,
        size,
        intermediate,
        FORMAT,
        COMPUTE,
        HEIGHT,
        WIDTH,
        STEP,
    )
    if BIASED:
        y += tl.load((address + down_bias).to(tl.pointer_type(tl.float32)) + n, mask=n < size, other=0)[
            None, :
        ]
    y = y * tl.load(slot_gates + slots)[:, None]
    tl.store(answer + slots[:, None].to(tl.int64) * size + n[None, :], y, mask=(n < size)[None, :])


@triton.jit
def sum_kernel(answer, output, row_slots, size, most, WIDTH: tl.constexpr):
    """output [R, H] = the sum of answer over the slots of each row, in their order; one row and WIDTH of H a program."""
    row = tl.program_id(0)
    n = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), dtype=tl.float32)
    for place in range(most):
        slot = tl.load(row_slots + row * most + place)
        at = answer + tl.maximum(slot, 0).to(tl.int64) * size + n
        total += tl.load(at, mask=(n < size) & (slot >= 0), other=0)
    tl.store(output + row.to(tl.int64) * size + n, total, mask=n < size)
