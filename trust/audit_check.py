"""The check of an opening: do the residuals look like an honest node's?

Guarantees: a pure function of residuals and thresholds; an opening passes only if, in each stage, the mean over rows, the largest row and
the factor by which all rows seem too long stay within the limits of its kind, and so does the mean over both stages. What fails is a
suspicion, which accuses nobody: a float64 recomputation decides. Readings stay with the coordinator, and a result prints none of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .audit_statements import OpeningKind
from .residuals import Residuals, Stage
from .thresholds import MAX_ROWS, Thresholds, ThresholdsError


@dataclass(frozen=True, slots=True)
class StageReading:
    """What one stage of an opening measured.

    Attributes:
        stage: Which.
        overall: Root of the mean square over projections and rows: the estimated relative error of all rows together.
        worst: The largest row's.
        scaling: By how much all rows together seem too long, or too short: what errors that point anywhere hardly show.
        overall_limit, worst_limit, scaling_limit: What was allowed.
    """

    stage: Stage
    overall: float
    worst: float
    scaling: float
    overall_limit: float
    worst_limit: float
    scaling_limit: float

    @property
    def within(self) -> bool:
        """Whether all are allowed."""
        return (
            self.overall <= self.overall_limit
            and self.worst <= self.worst_limit
            and self.scaling <= self.scaling_limit
        )


@dataclass(frozen=True, slots=True)
class Passed:
    """The opening looks like an honest node's."""

    readings: tuple[StageReading, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """The opening does not; `stages` are those that failed, or all where none did by itself."""

    stages: tuple[Stage, ...]
    readings: tuple[StageReading, ...] = field(repr=False)


def check_opening(residuals: Residuals, thresholds: Thresholds, kind: OpeningKind) -> Passed | Suspicion:
    """Judges the residuals of one opening.

    Raises:
        ThresholdsError: when the thresholds are for another number of projections or lack a stage, or when there are too many rows.
    """
    readings = []
    for stage, part in residuals.items():
        rows, columns = part.errors.shape
        limits = thresholds.limits_of(kind, stage)
        if columns != limits.columns:
            raise ThresholdsError(f"thresholds for {limits.columns} residuals a row cannot judge {columns}")
        if rows > MAX_ROWS:
            raise ThresholdsError(
                f"an audit of {rows} rows is too large", advice=f"ask for {MAX_ROWS} at most"
            )
        by_row = part.by_row
        factor, length = part.scaling()
        readings.append(
            StageReading(
                stage,
                overall=float(np.sqrt(np.mean(np.square(by_row)))),
                worst=float(np.max(by_row)),
                scaling=abs(factor),
                overall_limit=limits.overall_of(rows),
                worst_limit=limits.worst_of(rows),
                scaling_limit=limits.scaling_of(length),
            )
        )
    failed = tuple(reading.stage for reading in readings if not reading.within)
    if not failed and not _within_together(residuals, thresholds, kind):
        failed = tuple(residuals)
    return Suspicion(failed, tuple(readings)) if failed else Passed(tuple(readings))


def _within_together(residuals: Residuals, thresholds: Thresholds, kind: OpeningKind) -> bool:
    """A row that went to several experts has more residuals than one of those that limits are from, so their mean varies less."""
    if not all(stage in residuals for stage in Stage):
        return True
    every = np.concatenate([part.errors.ravel() for part in residuals.values()])
    rows = len(residuals[Stage.OUTPUT].errors)
    return float(np.sqrt(np.mean(np.square(every)))) <= thresholds.together_of(kind, rows)
