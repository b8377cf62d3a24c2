"""Nodes that compute experts in numpy: honest ones of several arithmetics, and cheats of every kind.

Guarantees: rows, weights and answers follow from seeds; an honest arithmetic rounds gate, up, inner activation and
output at most once each, as the manifest's profile allows; a cheat differs from it in what its name says and in
nothing else.

Letters: n rows, m rows of one expert, H hidden size, I intermediate size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from folkmoot.trust.expert_arithmetic import (
    Activation,
    ExpertForm,
    ExpertRows,
    ExpertWeights,
    activate,
)
from folkmoot.trust.residuals import OpenedExpert

Singles = npt.NDArray[np.float32]
Rounding = Callable[[Singles], Singles]


def bfloat16(values: npt.ArrayLike) -> Singles:
    """Rounded to nearest, ties to even, as bfloat16 does; kept in float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32)


def exact(values: npt.ArrayLike) -> Singles:
    """Not rounded below float32."""
    return np.asarray(values, np.float32)


@dataclass(frozen=True)
class Arithmetic:
    """How a node rounds what stands between the products, and its experts' outputs."""

    between: Rounding
    output: Rounding


HONEST = {
    "bfloat16": Arithmetic(bfloat16, bfloat16),
    "float32, one rounding": Arithmetic(exact, bfloat16),
    "float32": Arithmetic(exact, exact),
}
"""Arithmetics that the profile allows."""


def heavy_rows(count: int, hidden: int, seed: int) -> Singles:
    """Input rows [n, H] in bfloat16 with a few channels that are much larger than the others, as real activations have."""
    generator = np.random.default_rng(seed)
    channels = np.exp(0.5 * generator.normal(size=hidden))
    channels[generator.choice(hidden, max(1, hidden // 100), replace=False)] *= 15
    return bfloat16(generator.standard_t(5, size=(count, hidden)) * channels)


def random_expert(form: ExpertForm, hidden: int, intermediate: int, seed: int) -> ExpertWeights:
    """Canonical weights in bfloat16; with biases where GPT-OSS has them."""
    generator = np.random.default_rng(seed)

    def some(*shape: int) -> Singles:
        return bfloat16(generator.normal(0, 0.02, shape))

    biased = form.activation is Activation.CLAMPED_SWIGLU
    return ExpertWeights(
        some(intermediate, hidden) if form.gated else None,
        some(intermediate, hidden),
        some(hidden, intermediate),
        some(intermediate) if biased else None,
        some(intermediate) if biased else None,
        some(hidden) if biased else None,
    )


def answer(
    form: ExpertForm,
    experts: Sequence[ExpertWeights],
    pairs: Sequence[ExpertRows],
    rows: Singles,
    arithmetic: Arithmetic,
) -> tuple[Singles, list[OpenedExpert]]:
    """What a node of this arithmetic signs, and its raw opening."""
    output, opened = np.zeros(rows.shape, np.float32), []
    for weights, chosen in zip(experts, pairs, strict=True):
        inputs = rows[chosen.rows]
        gate = _product(inputs, weights.gate, weights.gate_bias, arithmetic.between)
        up = _product(inputs, weights.up, weights.up_bias, arithmetic.between)
        assert up is not None
        inner = arithmetic.between(exact(activate(form, gate, up)))
        term = _product(inner, weights.down, weights.down_bias, arithmetic.output)
        assert term is not None
        output[chosen.rows] += term * chosen.gates[:, None]
        opened.append(OpenedExpert(chosen, gate, up))
    return output, opened


def tight(experts: Sequence[ExpertWeights], pairs: Sequence[ExpertRows], rows: Singles) -> list[OpenedExpert]:
    """The opening that is computed again with float32 throughout."""
    opened = []
    for weights, chosen in zip(experts, pairs, strict=True):
        inputs = rows[chosen.rows]
        up = _product(inputs, weights.up, weights.up_bias, exact)
        assert up is not None
        opened.append(OpenedExpert(chosen, _product(inputs, weights.gate, weights.gate_bias, exact), up))
    return opened


def _product(rows: Singles, matrix: object, bias: object, rounding: Rounding) -> Singles | None:
    if matrix is None:
        return None
    product = rows @ np.asarray(matrix, np.float32).T
    return rounding(product if bias is None else product + np.asarray(bias, np.float32))


class Cheat(StrEnum):
    """What a node does to its weights instead of holding the canonical ones."""

    INT8_CHANNEL = "int8 per channel"
    INT8_BLOCK = "int8 in blocks of 32"
    FP8 = "fp8 e4m3"
    INT4 = "int4 in groups of 64"
    LOW_RANK = "low rank, 10 of 11"
    LEFT_OUT = "one neuron in eight left out"
    WRONG_EXPERT = "another expert"


def cheated(weights: ExpertWeights, cheat: Cheat) -> ExpertWeights:
    """The weights that a cheat computes with."""
    return replace(
        weights,
        gate=None if weights.gate is None else _cheapened(np.asarray(weights.gate, np.float32), cheat),
        up=_cheapened(np.asarray(weights.up, np.float32), cheat),
        down=_cheapened(np.asarray(weights.down, np.float32), cheat),
    )


def _cheapened(matrix: Singles, cheat: Cheat) -> Singles:
    match cheat:
        case Cheat.INT8_CHANNEL:
            return _quantized(matrix, matrix.shape[1], 127)
        case Cheat.INT8_BLOCK:
            return _quantized(matrix, 32, 127)
        case Cheat.INT4:
            return _quantized(matrix, 64 if matrix.shape[1] % 64 == 0 else 32, 7)
        case Cheat.FP8:
            scale = np.abs(matrix).max() / 448
            return exact(_e4m3(matrix / scale) * scale)
        case Cheat.LOW_RANK:
            left, values, right = np.linalg.svd(matrix, full_matrices=False)
            rank = len(values) * 10 // 11
            return exact((left[:, :rank] * values[:rank]) @ right[:rank])
        case Cheat.LEFT_OUT:
            changed = matrix.copy()
            changed[::8] = 0
            return changed
        case Cheat.WRONG_EXPERT:
            return exact(np.random.default_rng(99).permuted(matrix.reshape(-1)).reshape(matrix.shape))


def _quantized(matrix: Singles, block: int, levels: int) -> Singles:
    blocks = matrix.reshape(len(matrix), -1, block)
    scale = np.abs(blocks).max(axis=2, keepdims=True) / levels
    return exact(np.round(blocks / scale) * scale).reshape(matrix.shape)


def _e4m3(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Rounded to three bits behind the leading one, in the range where that is all there is to it."""
    exponent = np.maximum(np.floor(np.log2(np.maximum(np.abs(values), 1e-30))), -6)
    step = np.exp2(exponent - 3)
    return np.asarray(np.round(values / step) * step)
