"""Calibration: thresholds from what honest nodes were measured to leave.

Guarantees: the same samples give the same thresholds; each is at least `FLOOR`, and at least the largest over the
sources of that source's own, so a mixture of exact and less exact honest nodes does not hide the less exact.

How the tails are reached. A rate of 1e-4 a stage and the largest of 1,024 rows ask for quantiles near 1e-7, which no
affordable number of samples shows. They are extrapolated, in two ways, and the larger is taken: (1) the squares are
taken for a gamma distribution with their mean and variance (exact if all rows had one error: the square over k
projections is then chi-square of k degrees), by Wilson and Hilferty's approximation (1931); the variance of a mean of
n rows is that between blocks plus that within them over n, so rows of one audit may resemble each other; and it is never less than
rows of one error would have, for few samples often show less; (2) beyond
the 95th percentile the squares of single rows are taken to fall off exponentially, as fast as their mean excess
there. Both are wrong for an honest node whose errors are rarely but hugely larger than in the samples: calibrate with
inputs that have the model's own outliers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Final

import numpy as np

from .audit_statements import OpeningKind
from .expert_arithmetic import Doubles
from .residuals import Stage, StageResiduals
from .thresholds import ROW_COUNTS, StageLimits, Thresholds, ThresholdsError

DEFAULT_RATE: Final = 1e-4
FLOOR: Final = 1e-5
"""Float32 sums in another order leave up to 3.4e-6, weights in any other format 1e-3 and more; no limit need be between."""
FEWEST_ROWS: Final = 1000
"""Of one source and stage: fewer do not show the 95th percentile well."""
_TAIL: Final = 0.05
_SHARE_TOGETHER: Final = 0.3
"""Of the rate of either stage: weights in another format err in both."""
_SHARE_OF_LENGTHENING: Final = {Stage.OPENED: 0.1, Stage.OUTPUT: 0.5}
"""Of what is left. Weights in another format err in any direction; a bias, which shows here, is cheapest to add to the output."""

Blocks = Sequence[StageResiduals]
"""A block is rows that one audit could see together: one expert's, or one frame's."""


def calibrate(
    samples: Mapping[str, Mapping[tuple[OpeningKind, Stage], Blocks]],
    rate: float = DEFAULT_RATE,
) -> Thresholds:
    """Thresholds at a false-positive rate for each stage. Both stages give up `_SHARE_TOGETHER` of it for how long their errors are together;
    of the rest, a share goes to what errors have in common with what was expected, and what remains to how long they are: of several
    rows, half of that to their mean and half to the largest.

    Args:
        samples: By source (an arithmetic that honest nodes may have, such as bfloat16 on a CPU), then by kind and stage.
        rate: How often an honest opening may be suspected.

    Raises:
        ThresholdsError: when a source has too few rows, or one that is not finite, or samples are of different widths.
    """
    limits: dict[tuple[OpeningKind, Stage], StageLimits] = {}
    together: dict[OpeningKind, tuple[float, ...]] = {}
    sources = {}
    for source, stages in samples.items():
        sources[source] = min(
            (sum(len(block.errors) for block in blocks) for blocks in stages.values()), default=0
        )
        for key, blocks in stages.items():
            found = _stage_limits(source, blocks, (1 - _SHARE_TOGETHER) * rate, _SHARE_OF_LENGTHENING[key[1]])
            limits[key] = _larger(limits[key], found) if key in limits else found
        for kind in OpeningKind:
            if all((kind, stage) in stages for stage in Stage):
                both = _of_both(stages[kind, Stage.OPENED], stages[kind, Stage.OUTPUT])
                joint = _together_limits(source, both, len(Stage) * _SHARE_TOGETHER * rate)
                together[kind] = tuple(map(max, together.get(kind, joint), joint))
    return Thresholds(rate, sources, limits, together)


def _larger(one: StageLimits, other: StageLimits) -> StageLimits:
    if one.columns != other.columns:
        raise ThresholdsError("samples of different numbers of projections do not go together")
    return StageLimits(
        one.columns,
        tuple(map(max, one.overall, other.overall)),
        tuple(map(max, one.worst, other.worst)),
        max(one.lengthening, other.lengthening),
    )


def _of_both(opened: Blocks, output: Blocks) -> Blocks:
    """Each row's residuals of both stages side by side, with one expert's of those that it went to."""
    return [
        StageResiduals(
            np.concatenate([one.errors[: len(other.errors)], other.errors], axis=1),
            np.concatenate([one.expected[: len(other.errors)], other.expected], axis=1),
        )
        for one, other in zip(opened, output, strict=True)
    ]


class _Squares:
    """How the squared errors of honest rows are spread."""

    def __init__(self, source: str, blocks: Blocks) -> None:
        squares = [np.square(block.by_row) for block in blocks]
        self.every = np.concatenate(squares) if squares else np.zeros(0)
        columns = {block.errors.shape[1] for block in blocks}
        if len(self.every) < FEWEST_ROWS or not np.isfinite(self.every).all() or len(columns) != 1:
            raise ThresholdsError(
                f"{source} has {len(self.every)} honest rows of a stage, not all finite and of one width",
                advice=f"measure at least {FEWEST_ROWS}, with one number of projections",
            )
        self.columns = columns.pop()
        self.mean = float(self.every.mean())
        chance = 2 * self.mean * self.mean / self.columns
        # A row's error and its projections vary within a block too; what varies between blocks does not average out.
        within = float(sum(np.square(block - block.mean()).sum() for block in squares) / len(self.every))
        self._between = max(float(self.every.var()) - within, 0.0)
        self._within = max(within, chance)

    def of_one(self, rate: float) -> float:
        """What one row exceeds at this rate."""
        by_chance = gamma_quantile(self.mean, self._between + self._within, rate)
        return max(by_chance, _tail_quantile(self.every, rate))

    def of_mean(self, rows: int, rate: float) -> float:
        """What the mean of so many rows exceeds."""
        if rows == 1:
            return self.of_one(rate)
        return gamma_quantile(self.mean, self._between + self._within / rows, rate)


def _stage_limits(source: str, blocks: Blocks, rate: float, share_of_lengthening: float) -> StageLimits:
    squares = _Squares(source, blocks)
    along = np.square(np.concatenate([block.lengthening for block in blocks]))
    mean = float(along.mean())
    for_lengthening = rate * share_of_lengthening
    for_length = rate - for_lengthening
    # One residual is as long as what it has in common with anything: it is looked at once.
    of_one = squares.of_one(rate if squares.columns == 1 else for_length)
    lengthening = max(
        gamma_quantile(mean, max(float(along.var()), 2 * mean * mean), for_lengthening),
        _tail_quantile(along, for_lengthening),
    )
    several = ROW_COUNTS[1:]
    return StageLimits(
        squares.columns,
        _roots([of_one, *(squares.of_mean(rows, for_length / 2) for rows in several)]),
        _roots([of_one, *(squares.of_one(for_length / 2 / rows) for rows in several)]),
        *_roots([lengthening]),
    )


def _together_limits(source: str, blocks: Blocks, rate: float) -> tuple[float, ...]:
    squares = _Squares(source, blocks)
    return _roots([squares.of_mean(rows, rate) for rows in ROW_COUNTS])


def _roots(squares: Sequence[float]) -> tuple[float, ...]:
    return tuple(max(FLOOR, math.sqrt(square)) for square in squares)


def gamma_quantile(mean: float, variance: float, rate: float) -> float:
    """What a gamma variable of this mean and variance exceeds at this rate, by Wilson and Hilferty's approximation."""
    if mean <= 0 or variance <= 0:
        return mean
    ninth = variance / (9 * mean * mean)
    return float(mean * max(1 - ninth + NormalDist().inv_cdf(1 - rate) * math.sqrt(ninth), 0.0) ** 3)


def _tail_quantile(every: Doubles, rate: float) -> float:
    """What single rows exceed at this rate, if they fall off exponentially beyond the 95th percentile."""
    start = float(np.quantile(every, 1 - _TAIL))
    excess = every[every > start] - start
    mean_excess = float(excess.mean()) if len(excess) else 0.0
    return start + mean_excess * math.log(_TAIL / rate)
