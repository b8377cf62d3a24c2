"""The verdict's arithmetic: a frame computed again in float64 from canonical weights.

Guarantees: pure; what a row's error is measured against is never smaller than its parts (`sizes`), so experts whose answers
nearly cancel cannot make honest rounding look like fraud; what is not finite, where the recomputation is finite, is wrong
by infinitely much; and where the recomputation itself is not finite nobody is accused.

Letters: n rows, m rows of one expert, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from .expert_arithmetic import Doubles, ExpertForm, ExpertRows, ExpertWeights, Floats, expert_output, sizes

PROFILE_TOLERANCE: Final = 0.0070
"""Relative L2 error of a row under the profile `float32-accumulate/1`: honest rounding of gate, up, their product and the output
stays below 0.0059, weights cheated to int8 in blocks of 32 are at 0.0085 and more."""
DRIFT_TOLERANCE: Final = 0.0015
"""Relative L2 norm of the mean error over many rows: honest rounding, whose sign changes, is at 0.0004 over 100 of them."""
DRIFT_ROWS: Final = 100


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What an honest node may differ by.

    Attributes:
        row: Relative L2 error of one row.
        drift: Relative L2 norm of the mean over rows of their errors, each over its own size.
        drift_rows: How many different rows such a mean needs.
    """

    row: float = PROFILE_TOLERANCE
    drift: float = DRIFT_TOLERANCE
    drift_rows: int = DRIFT_ROWS


@dataclass(frozen=True, slots=True, eq=False)
class Recomputed:
    """What a frame's output should have been.

    Attributes:
        output: [n, H] float64.
        sizes: [n] float64, what errors are measured against.
    """

    output: Doubles = field(repr=False)
    sizes: Doubles = field(repr=False)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A signed output beside the recomputed one.

    Attributes:
        errors: [n] relative L2 error of each row.
        wrong: The rows whose error is above the tolerance.
        worst: The largest error.
        tolerance: What was allowed.
    """

    errors: Doubles = field(repr=False)
    wrong: tuple[int, ...]
    worst: float
    tolerance: float


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
    output, squares = np.zeros(inputs.shape), np.zeros(len(inputs))
    with np.errstate(over="ignore", invalid="ignore"):
        for one in pairs:
            answer = expert_output(form, weights_of(one.expert), inputs[one.rows])  # [m, H]
            term = answer * np.asarray(one.gates, np.float64)[:, None]
            output[one.rows] += term
            squares[one.rows] += np.square(sizes([term]))
    return Recomputed(output, np.maximum(sizes([output]), np.sqrt(squares)))


def compare(signed: Floats, recomputed: Recomputed, tolerance: Tolerance) -> Comparison:
    """How far a signed output [n, H] is from what it should have been, row by row."""
    errors = sizes([_relative(signed, recomputed)])
    wrong = tuple(int(row) for row in np.flatnonzero(errors > tolerance.row))
    return Comparison(errors, wrong, float(errors.max(initial=0.0)), tolerance.row)


def drift(signed: Floats, recomputed: Recomputed) -> float:
    """The relative L2 norm of the mean error over rows: what stays of a bias when honest rounding averages out.

    The rows must be of different inputs: the same row rounds the same way each time.
    """
    return float(np.linalg.norm(np.mean(_relative(signed, recomputed), axis=0)))


def drifts(signed: Floats, recomputed: Recomputed, tolerance: Tolerance) -> bool:
    """Whether many rows together show a bias that each of them alone may have."""
    return len(recomputed.sizes) >= tolerance.drift_rows and drift(signed, recomputed) > tolerance.drift


def _relative(signed: Floats, recomputed: Recomputed) -> Doubles:
    """Each row's error over its size: [n, H]; nothing where the recomputation is not finite."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        difference = np.asarray(signed, np.float64) - recomputed.output
        errors = np.where(difference == 0, 0.0, difference / recomputed.sizes[:, None])
    errors = np.where(np.isfinite(errors), errors, np.inf)
    known = np.isfinite(recomputed.output).all(axis=1) & np.isfinite(recomputed.sizes)
    return np.asarray(np.where(known[:, None], errors, 0.0))
