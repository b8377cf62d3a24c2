"""Thresholds: how large the residuals of an honest opening may be.

Guarantees: thresholds come out of a calibration and are frozen; they say for which number of projections, at which
false-positive rate and from which honest samples they were made; their JSON has one form, is bounded, and is refused
when anything is missing, unknown, out of order, not finite or not positive.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import TrustError
from .audit_statements import OpeningKind
from .projections import MAX_COUNT
from .residuals import SMALLEST_BIAS, Stage

FORMAT: Final = "folkmoot-thresholds/3"
ROW_COUNTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""The numbers of rows that thresholds are made for."""
MAX_ROWS: Final = ROW_COUNTS[-1]
"""The most rows, or pairs of row and expert, that one audit may check."""
MAX_JSON_BYTES: Final = 64 << 10


class ThresholdsError(TrustError):
    """Text is no thresholds, or thresholds do not go with what they are to judge."""


@dataclass(frozen=True, slots=True)
class StageLimits:
    """What one stage allows, for each of `ROW_COUNTS`.

    Attributes:
        columns: Residuals of one row: k, or 2k where gate and up stand side by side.
        overall: Of the root of the mean square over projections and rows.
        worst: Of the largest row's root of the mean square over projections.
        lengthening: Of what errors have in common with what was expected, for any number of rows.
    """

    columns: int
    overall: tuple[float, ...]
    worst: tuple[float, ...]
    lengthening: float

    def overall_of(self, rows: int) -> float:
        """The limit of the mean of so many rows: that of the next smaller number, for means of fewer rows vary more."""
        return self.overall[bisect.bisect_right(ROW_COUNTS, rows) - 1]

    def worst_of(self, rows: int) -> float:
        """The limit of the largest of so many rows: that of the next larger number."""
        return self.worst[bisect.bisect_left(ROW_COUNTS, rows)]

    def scaling_of(self, length: float) -> float:
        """The limit of a factor that was seen by projections of this length; never less than what nobody looks for."""
        return max(SMALLEST_BIAS, self.lengthening / length) if length > 0 else math.inf


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What each stage of each kind of opening allows.

    Attributes:
        rate: How often an honest opening may be suspected, for each stage.
        sources: How many honest rows of each kind of node they were made from.
        limits: By kind of opening and stage.
        together: By kind of opening, of the root of the mean square over both stages, for each of `ROW_COUNTS`; none where there
            were no samples of both.
    """

    rate: float
    sources: Mapping[str, int]
    limits: Mapping[tuple[OpeningKind, Stage], StageLimits]
    together: Mapping[OpeningKind, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.rate < 0.5:
            raise ThresholdsError(f"there are no thresholds for a rate of {self.rate}")
        for limits in self.limits.values():
            if not 0 < limits.columns <= 2 * MAX_COUNT:
                raise ThresholdsError(f"no stage has {limits.columns} residuals a row")
            _check_counts(limits.overall, limits.worst)
            _check_numbers(*limits.overall, *limits.worst, limits.lengthening)
        for joint in self.together.values():
            _check_counts(joint)
            _check_numbers(*joint)

    def limits_of(self, kind: OpeningKind, stage: Stage) -> StageLimits:
        """What a stage allows.

        Raises:
            ThresholdsError: when the calibration had no such samples.
        """
        limits = self.limits.get((kind, stage))
        if limits is None:
            raise ThresholdsError(
                f"there are no thresholds for {kind.name.lower()} openings of stage {stage}",
                advice="calibrate with samples of this kind",
            )
        return limits

    def together_of(self, kind: OpeningKind, rows: int) -> float:
        """The limit of both stages together for so many rows of output, infinite where there is none."""
        joint = self.together.get(kind)
        return math.inf if joint is None else joint[bisect.bisect_right(ROW_COUNTS, rows) - 1]

    def encode(self) -> str:
        """Canonical JSON."""
        document = {
            "format": FORMAT,
            "rate": self.rate,
            "sources": dict(self.sources),
            "row_counts": list(ROW_COUNTS),
            "limits": {
                f"{kind.name.lower()}/{stage}": {
                    "columns": limits.columns,
                    "overall": list(limits.overall),
                    "worst": list(limits.worst),
                    "lengthening": limits.lengthening,
                }
                for (kind, stage), limits in self.limits.items()
            },
            "together": {kind.name.lower(): list(joint) for kind, joint in self.together.items()},
        }
        return json.dumps(document, sort_keys=True, indent=1)

    @classmethod
    def decode(cls, text: str | bytes) -> Thresholds:
        """Reads what `encode` made.

        Raises:
            ThresholdsError: when the text is anything else.
        """
        if len(text) > MAX_JSON_BYTES:
            raise ThresholdsError(f"thresholds of {len(text)} bytes are over the cap of {MAX_JSON_BYTES}")
        try:
            document = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
            return cls._from(document)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise ThresholdsError(
                f"the thresholds cannot be read ({type(error).__name__})", advice="calibrate again"
            ) from error

    @classmethod
    def _from(cls, document: dict[str, Any]) -> Thresholds:
        if set(document) != {"format", "rate", "sources", "row_counts", "limits", "together"}:
            raise ValueError("unknown or missing parts")
        if document["format"] != FORMAT or document["row_counts"] != list(ROW_COUNTS):
            raise ValueError("another version")
        limits = {}
        for name, numbers in document["limits"].items():
            kind, _, stage = name.partition("/")
            if set(numbers) != {"columns", "overall", "worst", "lengthening"}:
                raise ValueError("unknown or missing limits")
            limits[OpeningKind[kind.upper()], Stage(stage)] = StageLimits(
                _whole(numbers["columns"]),
                _numbers(numbers["overall"]),
                _numbers(numbers["worst"]),
                _number(numbers["lengthening"]),
            )
        sources = {name: _whole(rows) for name, rows in document["sources"].items()}
        together = {
            OpeningKind[kind.upper()]: _numbers(joint) for kind, joint in document["together"].items()
        }
        return cls(_number(document["rate"]), sources, limits, together)


def _check_counts(*limits: tuple[float, ...]) -> None:
    if any(len(numbers) != len(ROW_COUNTS) for numbers in limits):
        raise ThresholdsError(f"a stage has limits for {len(ROW_COUNTS)} numbers of rows")


def _check_numbers(*numbers: float) -> None:
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise ThresholdsError("a limit is not finite and positive")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a part is there twice")
    return document


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number here")


def _numbers(values: list[Any]) -> tuple[float, ...]:
    return tuple(_number(value) for value in values)


def _number(value: Any) -> float:
    if not isinstance(value, float | int) or isinstance(value, bool):
        raise TypeError("not a number")
    return float(value)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError("not a number of things")
    return value
