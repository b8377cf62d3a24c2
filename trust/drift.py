"""Drift: small errors that always point the same way.

Guarantees: a pure accumulator; adding in another order changes nothing but roundings. One audit cannot tell a bias of
0.3 % from honest rounding, whose sign changes from row to row; over many rows honest rounding averages out and a bias
stays. Two kinds are measured: of scale (all outputs too large or too small by a factor) and of direction (the same
small vector added, relative to the output). A bias below `SMALLEST_BIAS` is not looked for.

An accumulator belongs to one node and one layer in one epoch, for other projections point elsewhere, and takes each
distinct input once: the same row repeated rounds the same way each time, and would look like a bias of direction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Final

import numpy as np

from .calibration import gamma_quantile
from .expert_arithmetic import Doubles
from .residuals import SMALLEST_BIAS, Residuals, Stage, StageResiduals

FEWEST_ROWS: Final = 64
"""Fewer say nothing."""


@dataclass(frozen=True, slots=True)
class Bias:
    """What an accumulator measured.

    Attributes:
        rows: From how many rows.
        scale: The factor by which vectors are too large, less 1.
        scale_noise: Its standard error.
        direction: The relative size of the vector that is always added, honest rounding's share taken off.
        direction_limit: What honest rounding alone exceeds at the rate asked for.
    """

    rows: int
    scale: float
    scale_noise: float
    direction: float
    direction_limit: float


@dataclass(frozen=True, slots=True)
class Sums:
    """Running sums of one stage.

    Attributes:
        rows: Rows added.
        signed: [k], or [2k], sum of residuals.
        squares: Sum of their squares.
        product: Sum of residual times expected projection.
        expected: Sum of the expected projections' squares.
    """

    rows: int
    signed: Doubles
    squares: float
    product: float
    expected: float

    def add(self, part: StageResiduals) -> Sums:
        """With one more opening's residuals; rows that are not finite are left to the audit that saw them."""
        finite = np.isfinite(part.errors).all(axis=1)
        errors, expected = part.errors[finite], part.expected[finite]
        return Sums(
            self.rows + len(errors),
            self.signed + errors.sum(axis=0),
            self.squares + float(np.square(errors).sum()),
            self.product + float((errors * expected).sum()),
            self.expected + float(np.square(expected).sum()),
        )

    def bias(self, rate: float) -> Bias:
        """What has been measured so far."""
        count = len(self.signed)
        variance = self.squares / (count * self.rows)
        mean_square = float(np.mean(np.square(self.signed / self.rows)))
        expected = max(self.expected, 1e-300)
        # With k projections of one mean vector, its measured square is chi-square of k degrees about its own.
        honest = variance / self.rows
        limit = gamma_quantile(honest, 2 * honest * honest / count, rate)
        return Bias(
            self.rows,
            self.product / expected,
            math.sqrt(variance / expected),
            math.sqrt(max(mean_square - honest, 0.0)),
            math.sqrt(limit),
        )


@dataclass(frozen=True)
class DriftAccumulator:
    """What one node's openings of one layer leave, added up with its sign."""

    stages: Mapping[Stage, Sums] = field(default_factory=dict, repr=False)

    def add(self, residuals: Residuals) -> DriftAccumulator:
        """With one more opening."""
        stages = dict(self.stages)
        for stage, part in residuals.items():
            before = stages.get(stage) or Sums(0, np.zeros(part.errors.shape[1]), 0.0, 0.0, 0.0)
            stages[stage] = before.add(part)
        return replace(self, stages=stages)

    def biased(self, rate: float) -> dict[Stage, Bias]:
        """The stages that show a bias larger than `SMALLEST_BIAS`, and than honest rounding shows at this rate."""
        found = {}
        for stage, sums in self.stages.items():
            if sums.rows < FEWEST_ROWS:
                continue
            bias = sums.bias(rate)
            by_chance = NormalDist().inv_cdf(1 - rate / 2) * bias.scale_noise
            if abs(bias.scale) > max(SMALLEST_BIAS, by_chance) or bias.direction > max(
                SMALLEST_BIAS, bias.direction_limit
            ):
                found[stage] = bias
        return found
