"""The verdict's arithmetic: a frame computed again in float64 from canonical weights.

Guarantees: pure; what a row's error is measured against is never smaller than its parts (`sizes`), so experts whose
answers nearly cancel cannot make honest rounding look like fraud; a row may differ by the profile's tolerance, or by
what honest rounding of this very row exceeds once in `HONEST_RATE` and what float32 sums may do to it besides, whichever is
more; what is not finite, where the recomputation is finite and in range, is wrong by infinitely much; and where the recomputation
is not finite, or a row leaves the range in which honest machines agree, nobody is accused, whatever was signed.

Letters: n rows, m rows of one expert, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

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
from .float_noise import float_noise, leeway, summing_noise
from .honest_rounding import RoundingSpread, rounding_spread

PROFILE_TOLERANCE: Final = 0.0070
"""Relative L2 error of a row under the profile `float32-accumulate/1`: honest rounding of gate, up, their product and the output
stays below 0.0059, weights cheated to int8 in blocks of 32 are at 0.0085 and more."""
HONEST_RATE: Final = 1e-9
"""How often honest rounding may exceed what a row is allowed, where that is more than the profile's tolerance: small experts, and
rows that one neuron carries, round worse than the average row."""
DRIFT_TOLERANCE: Final = 0.0015
"""Relative size of a bias over many rows: honest rounding, whose sign changes, is at 0.0004 over 100 of them."""
DRIFT_ROWS: Final = 100


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What an honest node may differ by.

    Attributes:
        row: Relative L2 error of one row.
        honest_rate: How often honest rounding of the row may exceed what it is allowed.
        drift: Relative size of a bias over many rows.
        drift_rows: How many different rows that needs.
    """

    row: float = PROFILE_TOLERANCE
    honest_rate: float = HONEST_RATE
    drift: float = DRIFT_TOLERANCE
    drift_rows: int = DRIFT_ROWS


@dataclass(frozen=True, slots=True, eq=False)
class Recomputed:
    """What a frame's output should have been.

    Attributes:
        output: [n, H] float64.
        sizes: [n] float64, what errors are measured against.
        rounding: What honest rounding does to the n rows' squared errors, not divided by their sizes.
        leeway: [n] float64, what float32 sums may do beside that, relative to the sizes; infinite where nothing can be said of a
            row.
    """

    output: Doubles = field(repr=False)
    sizes: Doubles = field(repr=False)
    rounding: RoundingSpread = field(repr=False)
    leeway: Doubles = field(repr=False)

    @classmethod
    def joined(cls, parts: Sequence[Recomputed]) -> Recomputed:
        """All rows of the parts, one part after another."""
        return cls(
            np.concatenate([part.output for part in parts]),
            np.concatenate([part.sizes for part in parts]),
            RoundingSpread(
                np.concatenate([part.rounding.mean for part in parts]),
                np.concatenate([part.rounding.variance for part in parts]),
            ),
            np.concatenate([part.leeway for part in parts]),
        )

    def taken(self, rows: npt.NDArray[np.bool_]) -> Recomputed:
        """Some of the rows."""
        spread = RoundingSpread(self.rounding.mean[rows], self.rounding.variance[rows])
        return Recomputed(self.output[rows], self.sizes[rows], spread, self.leeway[rows])


@dataclass(frozen=True, slots=True)
class Comparison:
    """A signed output beside the recomputed one.

    Attributes:
        errors: [n] relative L2 error of each row.
        allowed: [n] what each row may differ by; infinite where nothing can be said of it.
        wrong: The rows whose error is more.
        worst: The row that is furthest beyond, or nearest to, what it may be.
    """

    errors: Doubles = field(repr=False)
    allowed: Doubles = field(repr=False)
    wrong: tuple[int, ...]
    worst: int

    @property
    def worst_error(self) -> float:
        """The error of the worst row."""
        return float(self.errors[self.worst])

    @property
    def worst_allowed(self) -> float:
        """What the worst row may differ by."""
        return float(self.allowed[self.worst])

    @property
    def unknown(self) -> int:
        """Of how many rows nothing can be said."""
        return int(np.count_nonzero(np.isinf(self.allowed)))


def recompute(
    form: ExpertForm,
    weights_of: Callable[[int], ExpertWeights],
    rows: Floats,
    pairs: Sequence[ExpertRows],
) -> Recomputed:
    """Computes a frame again: for each row the sum over experts of gate times answer.

    Args:
        form: Of the layer's experts.
        weights_of: An expert's canonical weights by its number; held for one expert at a time.
        rows: [n, H].
        pairs: Which experts work on which rows.
    """
    inputs = np.asarray(rows, np.float64)
    output, (squares, means, variances, noises) = np.zeros(inputs.shape), np.zeros((4, len(inputs)))
    added = np.zeros((len(inputs), 3))
    with np.errstate(over="ignore", invalid="ignore"):
        for one in pairs:
            weights, gates = weights_of(one.expert), np.asarray(one.gates, np.float64)
            gate, up = first_products(weights, inputs[one.rows])  # [m, I]
            answer = second_product(weights, activate(form, gate, up))  # [m, H]
            length = sizes([answer])
            output[one.rows] += answer * gates[:, None]
            squares[one.rows] += np.square(length * gates)
            spread = rounding_spread(form, weights, gate, up, answer)
            means[one.rows] += spread.mean * gates**2
            variances[one.rows] += spread.variance * gates**4
            noise = float_noise(form, weights, inputs[one.rows], gate, up, answer)
            noises[one.rows] += np.where(np.isinf(noise), np.inf, np.square(noise * gates))
            added[one.rows] += np.stack([np.ones(len(length)), length * np.abs(gates), length], axis=1)
        scale = np.maximum(sizes([output]), np.sqrt(squares))
        noise = np.sqrt(noises) + summing_noise(inputs.shape[1], added)
    return Recomputed(output, scale, RoundingSpread(means, variances), leeway(noise, scale))


def compare(signed: Floats, recomputed: Recomputed, tolerance: Tolerance) -> Comparison:
    """How far a signed output [n, H] is from what it should have been, row by row."""
    errors = sizes([_relative(signed, recomputed)])
    with np.errstate(divide="ignore", invalid="ignore"):
        honest = recomputed.rounding.reach(tolerance.honest_rate) / recomputed.sizes
    allowed = np.maximum(
        tolerance.row, np.hypot(np.where(np.isfinite(honest), honest, 0.0), recomputed.leeway)
    )
    wrong = tuple(int(row) for row in np.flatnonzero(errors > allowed))
    beyond = np.where(np.isinf(allowed), 0.0, errors / np.where(np.isinf(allowed), 1.0, allowed))
    return Comparison(errors, allowed, wrong, int(np.argmax(beyond)))


def drift(signed: Floats, recomputed: Recomputed) -> float:
    """What stays of a bias when honest rounding averages out over rows: the larger of two relative sizes.

    That of a vector that is always added (the norm of the mean error), and that of a factor (the errors' share along the true
    rows). The rows must be of different inputs: the same row rounds the same way each time.
    """
    errors = _relative(signed, recomputed)
    with np.errstate(divide="ignore", invalid="ignore"):
        truth = recomputed.output / recomputed.sizes[:, None]
    truth = np.where(np.isfinite(truth), truth, 0.0)
    along = float(np.sum(errors * truth)) / max(float(np.sum(np.square(truth))), 1e-300)
    return max(float(np.linalg.norm(np.mean(errors, axis=0))), abs(along))


def _relative(signed: Floats, recomputed: Recomputed) -> Doubles:
    """Each row's error over its size: [n, H]; nothing where the recomputation is not finite."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        difference = np.asarray(signed, np.float64) - recomputed.output
        errors = np.where(difference == 0, 0.0, difference / recomputed.sizes[:, None])
    errors = np.where(np.isfinite(errors), errors, np.inf)
    known = np.isfinite(recomputed.output).all(axis=1) & np.isfinite(recomputed.sizes)
    return np.asarray(np.where(known[:, None], errors, 0.0))
