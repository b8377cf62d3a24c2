"""Whether signed rows that are each within what they may differ by are biased together: pure arithmetic, the same for everybody.

Guarantees: rows are called biased only if what stays of their errors is more than the tolerance, more than several times what honest
rounding of these very rows leaves on average, and clearly more than what any way of rounding that the profile allows leaves of these very
rows, together with what float32 sums may do to each. The last is computed, not estimated: an honest node rounds gate and up, what stands
between, and each expert's answer, once or not at all, so rows that were picked, or made, so that honest roundings point one way prove
nothing. Nor do rows of which by themselves nothing can be said.

Letters: n rows, m rows of one expert, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np

from . import float_noise
from .expert_arithmetic import (
    Doubles,
    ExpertForm,
    ExpertRows,
    ExpertWeights,
    Floats,
    activate,
    first_products,
    second_product,
    sizes,
)
from .recompute import Recomputed, Tolerance, drift, recompute

HONEST_TIMES: Final = 4.0
"""How far beyond what honest rounding leaves on average over the rows a bias must be."""
ROUNDED_TIMES: Final = 1.5
"""How far beyond what the worst honest way of rounding leaves of these rows: sums in float32 move a few roundings."""
_WAYS: Final = tuple(product((False, True), repeat=3))[1:]


@dataclass(frozen=True, slots=True)
class BiasReading:
    """What rows have in common.

    Attributes:
        rows: How many they are.
        drift: What stays of their errors, relative to their sizes.
        allowed: What an honest node's may leave.
        enough: Whether they are as many as it takes.
    """

    rows: int
    drift: float
    allowed: float
    enough: bool

    @property
    def biased(self) -> bool:
        """Whether they are biased beyond doubt."""
        return self.enough and self.drift > self.allowed


def mean_rounding(recomputed: Recomputed) -> float:
    """The size that honest rounding leaves on average of the mean over the rows' errors."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = recomputed.rounding.mean / np.square(recomputed.sizes)
    shares = np.where(np.isfinite(shares), shares, 0.0)
    return float(np.sqrt(np.sum(shares))) / max(len(shares), 1)


def weigh_bias(
    form: ExpertForm,
    weights_of: Callable[[int], ExpertWeights],
    rows: Floats,
    signed: Floats,
    pairs: Sequence[ExpertRows],
    tolerance: Tolerance,
) -> BiasReading:
    """Weighs rows of different inputs.

    Args:
        form: Of the layer's experts.
        weights_of: An expert's canonical weights by its number; held for one expert at a time.
        rows: [n, H], all different.
        signed: [n, H], what the node signed for them.
        pairs: Which experts work on which rows.
    """
    truth = recompute(form, weights_of, rows, pairs)
    found = drift(signed, truth)
    ways = rounded_answers(form, weights_of, rows, pairs)
    worst = max(drift(way, truth) for way in ways) + aligned_noise(truth)
    limit = max(tolerance.drift, HONEST_TIMES * mean_rounding(truth), ROUNDED_TIMES * worst)
    return BiasReading(len(rows), found, limit, len(rows) >= tolerance.drift_rows)


def aligned_noise(recomputed: Recomputed) -> float:
    """The drift of errors of float32 sums, if those of all rows point the same way; infinite where nothing can be said of a row.

    A row's leeway has room for many times the noise, which many rows together do not use.
    """
    noise = recomputed.leeway / float_noise.TIMES
    if np.isinf(noise).any():
        return float("inf")
    with np.errstate(divide="ignore", invalid="ignore"):
        lengths = sizes([recomputed.output]) / recomputed.sizes
    lengths = np.where(np.isfinite(lengths), lengths, 0.0)
    along = float(np.sum(noise * lengths)) / max(float(np.sum(np.square(lengths))), 1e-300)
    return max(float(np.mean(noise)), along)


def rounded_answers(
    form: ExpertForm, weights_of: Callable[[int], ExpertWeights], rows: Floats, pairs: Sequence[ExpertRows]
) -> list[Doubles]:
    """What honest nodes answer that round at some of the places where the profile lets them, one [n, H] for each choice of places."""
    inputs = np.asarray(rows, np.float64)
    answers = [np.zeros(inputs.shape) for _ in _WAYS]
    bits = form.significand_bits
    with np.errstate(over="ignore", invalid="ignore"):
        for one in pairs:
            weights, gates = weights_of(one.expert), np.asarray(one.gates, np.float64)
            gate, up = first_products(weights, inputs[one.rows])  # [m, I]
            for total, (first, inner, last) in zip(answers, _WAYS, strict=True):
                between = (
                    activate(form, None if gate is None else round_to(gate, bits), round_to(up, bits))
                    if first
                    else activate(form, gate, up)
                )
                answer = second_product(weights, round_to(between, bits) if inner else between)  # [m, H]
                total[one.rows] += (round_to(answer, bits) if last else answer) * gates[:, None]
    return answers


def round_to(values: Doubles, significand_bits: int) -> Doubles:
    """Each number rounded to so many bits, ties to even; what is not finite stays as it is."""
    fractions, exponents = np.frexp(values)
    rounded = np.ldexp(np.rint(np.ldexp(fractions, significand_bits)), exponents - significand_bits)
    return np.asarray(np.where(np.isfinite(values), rounded, values))
