"""What an expert computes, in float64 and from plain arrays: the definition that audits and verdicts are held
against.

Guarantees: nothing here is rounded to less than float64; the activations are those of the manifest's specs, under the
same names. This room knows no weight formats: whoever has the canonical bytes dequantizes them, exactly, and hands
the arrays in.

Letters: n rows, H hidden size, I intermediate size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.integer]


class Activation(StrEnum):
    """What stands between the first and the second product; the values are those that a manifest has."""

    SWIGLU = "swiglu"
    """silu(gate) * up."""
    GEGLU_TANH = "geglu_tanh"
    """gelu(gate, tanh approximation) * up."""
    CLAMPED_SWIGLU = "clamped_swiglu"
    """GPT-OSS: gate clamped above, up clamped both ways, gate * sigmoid(alpha * gate) * (up + 1)."""
    RELU_SQUARED = "relu_squared"
    """relu(up)^2; there is no gate."""


@dataclass(frozen=True, slots=True)
class ExpertForm:
    """What all experts of a layer share.

    Attributes:
        activation: What stands between the products.
        alpha, limit: Of the clamped SwiGLU.
        significand_bits: Of the type that honest nodes may round to, the leading bit included: 8 for bfloat16, 11 for
            float16, 24 for float32.
    """

    activation: Activation
    alpha: float = 1.702
    limit: float = 7.0
    significand_bits: int = 8

    @property
    def gated(self) -> bool:
        """Whether an expert has a gate."""
        return self.activation is not Activation.RELU_SQUARED


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """An expert's canonical weights, dequantized.

    Attributes:
        gate: [I, H]; None where the form has no gate.
        up: [I, H].
        down: [H, I].
        gate_bias, up_bias: [I]; None where there are none.
        down_bias: [H]; None where there is none.
    """

    gate: Floats | None
    up: Floats
    down: Floats
    gate_bias: Floats | None = None
    up_bias: Floats | None = None
    down_bias: Floats | None = None


@dataclass(frozen=True, slots=True)
class ExpertRows:
    """The rows that go through one expert, as a frame has them.

    Attributes:
        expert: Its number within the layer.
        rows: [m] integers, indices into the rows of the frame; none twice.
        gates: [m] float32, what each row's output is multiplied by.
    """

    expert: int
    rows: Indices
    gates: Floats


def activate(form: ExpertForm, gate: Floats | None, up: Floats) -> Doubles:
    """The inner activations of n rows: [n, I] in, [n, I] float64 out."""
    if gate is None:
        return np.square(np.maximum(np.asarray(up, np.float64), 0.0))
    first, second = factors(form, gate, up)
    return np.asarray(first * second)


def factors(form: ExpertForm, gate: Floats, up: Floats) -> tuple[Doubles, Doubles]:
    """What a gated activation is the product of: one follows from the gate alone, one from up; [n, I] float64 each."""
    gates, wide = np.asarray(gate, np.float64), np.asarray(up, np.float64)
    match form.activation:
        case Activation.GEGLU_TANH:
            cubic = gates * gates * gates
            bent = np.tanh(math.sqrt(2 / math.pi) * (gates + 0.044715 * cubic))
            return np.asarray(0.5 * gates * (1 + bent)), wide
        case Activation.CLAMPED_SWIGLU:
            gates = np.minimum(gates, form.limit)
            return np.asarray(gates * _sigmoid(form.alpha * gates)), np.clip(
                wide, -form.limit, form.limit
            ) + 1
        case _:
            return np.asarray(gates * _sigmoid(gates)), wide


def _sigmoid(values: Doubles) -> Doubles:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * values)))


def first_products(weights: ExpertWeights, rows: Floats) -> tuple[Doubles | None, Doubles]:
    """Gate (None without one) and up activations of rows [n, H], biases included: [n, I] float64 each."""
    inputs = np.asarray(rows, np.float64)
    gate = None if weights.gate is None else _linear(inputs, weights.gate, weights.gate_bias)
    return gate, _linear(inputs, weights.up, weights.up_bias)


def expert_output(form: ExpertForm, weights: ExpertWeights, rows: Floats) -> Doubles:
    """What an expert answers to rows [n, H], ungated: [n, H] float64."""
    return second_product(weights, activate(form, *first_products(weights, rows)))


def second_product(weights: ExpertWeights, inner: Doubles) -> Doubles:
    """The answers that inner activations [n, I] lead to, bias included: [n, H] float64."""
    return _linear(inner, weights.down, weights.down_bias)


def _linear(rows: Doubles, weights: Floats, bias: Floats | None) -> Doubles:
    product = rows @ np.asarray(weights, np.float64).T
    return product if bias is None else product + np.asarray(bias, np.float64)


def sizes(parts: Iterable[Floats]) -> Doubles:
    """For each row, the L2 norm of several terms that were summed, as if they were at right angles: [n] float64.

    Where the terms of a sum nearly cancel, each one's rounding is large beside the sum; measured against this it is not.
    """
    return np.asarray(np.sqrt(sum(np.sum(np.square(np.asarray(part, np.float64)), axis=1) for part in parts)))
