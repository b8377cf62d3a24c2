"""Errors too small for one audit that always point the same way: seen over many audits, and decided by recomputing many rows.

Guarantees: each distinct row of a node and layer counts once, for the same row rounds the same way each time; nobody is called
biased here: rows that look so, exactly recomputed and at least as many as the tolerance asks for, are handed on to be judged, with
the results that they are from. Memory is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from ...ids import NodeId
from ...trust.bias import HONEST_TIMES, mean_rounding
from ...trust.drift import DriftAccumulator
from ...trust.expert_arithmetic import Doubles
from ...trust.recompute import Recomputed, Tolerance, drift
from ...trust.residuals import Residuals, Stage, StageResiduals
from ..dispatch.pairs import Int64s
from ..dispatch.verified_result import VerifiedResult
from .question import Question

WINDOW_ROWS: Final = 512
"""After so many distinct rows what openings left is added up anew."""
MOST_RECORDS: Final = 4096
"""Of nodes and layers; the oldest gives way."""
MOST_KEPT_BYTES: Final = 128 << 20
"""Of results that are kept because they may become evidence; the node and layer with the fewest rows for their bytes give way."""


@dataclass(frozen=True, slots=True)
class CountedRows:
    """A result, and which of its rows count: ascending."""

    verified: VerifiedResult
    rows: Int64s


@dataclass(slots=True)
class _Residuals:
    """What openings left of one node in one layer.

    Attributes:
        epoch: Of the projections that residuals were measured with.
        seen: Rows that have been counted.
        sums: Their residuals.
        suspected: Whether the sums gave reason to recompute.
    """

    epoch: int
    seen: set[bytes] = field(default_factory=set)
    sums: DriftAccumulator = field(default_factory=DriftAccumulator)
    suspected: bool = False


@dataclass(slots=True)
class _Exact:
    """Rows of one node in one layer that have been recomputed.

    Attributes:
        seen: Which.
        kept: What they are rows of, in the order in which that came.
        signed, exact: What the node signed for them, and what they should have been.
    """

    seen: set[bytes] = field(default_factory=set)
    kept: dict[int, CountedRows] = field(default_factory=dict)
    signed: list[Doubles] = field(default_factory=list)
    exact: list[Recomputed] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the results that are kept."""
        return sum(one.verified.size for one in self.kept.values())


class BiasWatch:
    """Records of all nodes. For one thread."""

    def __init__(self, rate: float, tolerance: Tolerance) -> None:
        """`rate` is how often honest rounding may be suspected, `tolerance` what a node may differ by."""
        self._rate = rate
        self._tolerance = tolerance
        self._residuals: dict[tuple[NodeId, int], _Residuals] = {}
        self._exact: dict[tuple[NodeId, int], _Exact] = {}

    def note(self, question: Question, residuals: Residuals, epoch: int) -> bool:
        """Adds what an opening left; whether the rows asked about should be recomputed and given to `weigh`."""
        record = self._record(question, epoch)
        fresh = _fresh(question, record.seen)
        if fresh.any():
            of_pairs = fresh[np.concatenate([part.rows for part in question.selection.by_expert])]
            rows = {Stage.OPENED: of_pairs, Stage.OUTPUT: fresh}
            record.sums = record.sums.add(
                {
                    stage: StageResiduals(part.errors[rows[stage]], part.expected[rows[stage]])
                    for stage, part in residuals.items()
                }
            )
            record.suspected = record.suspected or bool(record.sums.biased(self._rate))
        return record.suspected

    def weigh(self, question: Question, recomputed: Recomputed) -> list[CountedRows]:
        """Adds exactly recomputed rows, whatever was the reason to recompute them; those that are to be judged for a bias, if any."""
        key = _key(question)
        record = self._exact.setdefault(key, _Exact())
        # A row of which nothing can be said would clear all others.
        fresh = _fresh(question, record.seen, np.isfinite(recomputed.leeway))
        if not fresh.any():
            return []
        record.signed.append(question.output[fresh])
        record.exact.append(recomputed.taken(fresh))
        verified, rows = question.verified, question.selection.rows[fresh]
        before = record.kept.get(id(verified))
        if before is not None:
            rows = np.union1d(before.rows, rows)
        record.kept[id(verified)] = CountedRows(verified, rows)
        if len(record.seen) < self._tolerance.drift_rows:
            self._bound(key)
            return []
        signed, exact = np.concatenate(record.signed), Recomputed.joined(record.exact)
        del self._exact[key]
        looks_biased = drift(signed, exact) > max(self._tolerance.drift, HONEST_TIMES * mean_rounding(exact))
        return list(record.kept.values()) if looks_biased else []

    def forget(self, node: NodeId) -> None:
        """Drops all records of a node."""
        for records in (self._residuals, self._exact):
            for key in [key for key in records if key[0] == node]:
                del records[key]

    def _record(self, question: Question, epoch: int) -> _Residuals:
        key = _key(question)
        record = self._residuals.get(key)
        if record is None or record.epoch != epoch or len(record.seen) > WINDOW_ROWS:
            # Whoever is being weighed stays suspected until that is over.
            weighed = record is not None and record.suspected and key in self._exact
            record = self._residuals[key] = _Residuals(epoch, suspected=weighed)
            if len(self._residuals) > MOST_RECORDS:
                del self._residuals[next(iter(self._residuals))]
        return record

    def _bound(self, extended: tuple[NodeId, int]) -> None:
        """Makes room; the record that was just extended goes last, or no node with large results could ever be judged."""
        sizes = {key: record.size for key, record in self._exact.items()}
        while sum(sizes.values()) > MOST_KEPT_BYTES or len(sizes) > MOST_RECORDS:
            given_up = min(
                sizes, key=lambda key: (key == extended, len(self._exact[key].seen) / max(sizes[key], 1))
            )
            del sizes[given_up], self._exact[given_up]


def _key(question: Question) -> tuple[NodeId, int]:
    return question.verified.host.node, question.verified.task.layer


def _fresh(
    question: Question, seen: set[bytes], counted: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.bool_]:
    """Which of the rows asked about, or of those that are counted, have not been seen; they have been, after this."""
    fresh = np.zeros(len(question.selection.rows), np.bool_)
    # A row is the same whatever signs its zeros have.
    for index, row in enumerate((question.hidden.float() + 0.0).numpy()):
        if counted is not None and not counted[index]:
            continue
        name = blake3(row.tobytes()).digest(16)
        if name not in seen:
            seen.add(name)
            fresh[index] = True
    return fresh
