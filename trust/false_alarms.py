"""How many honest openings may look wrong, and how wrong.

Guarantees: pure. Openings of an honest node are suspected at the rate that thresholds were made for, so as many as `as_many_by_chance`
calls next to impossible are no chance; and none is `FAR` times beyond what a rounded opening may be. Neither accuses anybody of a wrong
result: these are the marks of somebody who learns about the projections by what becomes of openings that are slightly wrong.
"""

from __future__ import annotations

import math
from typing import Final

from .audit_check import Suspicion
from .audit_statements import OpeningKind
from .residuals import Residuals
from .thresholds import Thresholds

FAR: Final = 3.0
"""In limits: six times what honest rows are, by eight projections."""
FAR_AT_LEAST: Final = 1e-3
"""As far as weights in another format: float32 sums of other machines may be some limits away from those of this one."""
NO_CHANCE: Final = 1e-6
"""As many false alarms as come less often by chance are not by chance."""
_NEGLIGIBLE: Final = 1e-12


def as_many_by_chance(count: int, of: int, rate: float) -> float:
    """How often at least `count` of so many openings are suspected when each is at this rate: the binomial distribution's tail."""
    if count <= of * rate or count < 1:
        return 1.0
    term = math.exp(
        math.lgamma(of + 1)
        - math.lgamma(count + 1)
        - math.lgamma(of - count + 1)
        + count * math.log(rate)
        + (of - count) * math.log1p(-rate)
    )
    total, odds = 0.0, rate / (1 - rate)
    while term > _NEGLIGIBLE * total and count <= of:
        total += term
        term *= odds * (of - count) / (count + 1)
        count += 1
    return min(total, 1.0)


def is_far(suspicion: Suspicion, residuals: Residuals, thresholds: Thresholds) -> bool:
    """Whether an opening is so wrong that no rounding explains it, however it was asked for: another float32 sum is not far from
    a tight limit by being beyond it, but what is worse than a rounded one may be is.

    Raises:
        ThresholdsError: when there are no thresholds for rounded openings.
    """
    for reading in suspicion.readings:
        limits = thresholds.limits_of(OpeningKind.RAW, reading.stage)
        rows = len(residuals[reading.stage].errors)
        for found, limit in (
            (reading.overall, limits.overall_of(rows)),
            (reading.worst, limits.worst_of(rows)),
        ):
            if not found <= max(FAR * limit, FAR_AT_LEAST):
                return True
    return False
