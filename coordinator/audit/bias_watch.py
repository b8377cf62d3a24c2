"""Errors too small for one audit that always point the same way: seen over many audits, and decided by recomputing many rows.

Guarantees: each distinct row of a node and layer counts once, for the same row rounds the same way each time; nobody is called
biased but by exact recomputation of at least as many rows as the tolerance asks for, by more than the tolerance, and by
several times what honest rounding of these very rows leaves. Memory is bounded for each node and layer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from ...ids import NodeId
from ...trust.drift import DriftAccumulator
from ...trust.expert_arithmetic import Doubles
from ...trust.honest_rounding import RoundingSpread
from ...trust.recompute import Recomputed, Tolerance, drift
from ...trust.residuals import Residuals, Stage, StageResiduals
from .question import Question

WINDOW_ROWS: Final = 512
"""After so many distinct rows a record begins anew."""
MOST_RECORDS: Final = 4096
"""Of nodes and layers; the oldest gives way."""
HONEST_TIMES: Final = 4.0
"""How far beyond what honest rounding leaves on average over the rows a bias must be."""


@dataclass(slots=True)
class _Record:
    """What is known of one node in one layer.

    Attributes:
        epoch: Of the projections that residuals were measured with.
        seen: Rows that have been counted.
        sums: Their residuals.
        suspected: Whether the sums, or an audit, gave reason to recompute.
        exact_seen: Rows that have been recomputed.
        signed, exact: What the node signed for them, and what they should have been.
    """

    epoch: int
    seen: set[bytes] = field(default_factory=set)
    sums: DriftAccumulator = field(default_factory=DriftAccumulator)
    suspected: bool = False
    exact_seen: set[bytes] = field(default_factory=set)
    signed: list[Doubles] = field(default_factory=list)
    exact: list[Recomputed] = field(default_factory=list)


class BiasWatch:
    """Records of all nodes. For one thread."""

    def __init__(self, rate: float, tolerance: Tolerance) -> None:
        """`rate` is how often honest rounding may be suspected, `tolerance` what a node may differ by."""
        self._rate = rate
        self._tolerance = tolerance
        self._records: dict[tuple[NodeId, int], _Record] = {}

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

    def weigh(self, question: Question, recomputed: Recomputed) -> float | None:
        """Adds exactly recomputed rows; the size of the bias when there is one beyond doubt, None otherwise."""
        record = self._records.get(_key(question))
        if record is None:
            return None
        fresh = _fresh(question, record.exact_seen)
        record.signed.append(question.output[fresh])
        record.exact.append(_taken(recomputed, fresh))
        if len(record.exact_seen) < self._tolerance.drift_rows:
            return None
        signed, exact = np.concatenate(record.signed), _joined(record.exact)
        found = drift(signed, exact)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = exact.rounding.mean / np.square(exact.sizes)
        honest = float(np.sqrt(np.sum(np.where(np.isfinite(shares), shares, 0.0)))) / len(signed)
        del self._records[_key(question)]
        return found if found > max(self._tolerance.drift, HONEST_TIMES * honest) else None

    def forget(self, node: NodeId) -> None:
        """Drops all records of a node."""
        for key in [key for key in self._records if key[0] == node]:
            del self._records[key]

    def _record(self, question: Question, epoch: int) -> _Record:
        key = _key(question)
        record = self._records.get(key)
        if record is None or record.epoch != epoch or len(record.seen) > WINDOW_ROWS:
            record = self._records[key] = _Record(epoch)
            if len(self._records) > MOST_RECORDS:
                del self._records[next(iter(self._records))]
        return record


def _key(question: Question) -> tuple[NodeId, int]:
    return question.verified.host.node, question.verified.task.layer


def _fresh(question: Question, seen: set[bytes]) -> npt.NDArray[np.bool_]:
    """Which of the rows asked about have not been seen; they have been, after this."""
    fresh = np.zeros(len(question.selection.rows), np.bool_)
    for index, row in enumerate(question.inputs):
        name = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
        if name not in seen:
            seen.add(name)
            fresh[index] = True
    return fresh


def _taken(recomputed: Recomputed, rows: npt.NDArray[np.bool_]) -> Recomputed:
    spread = recomputed.rounding
    return Recomputed(
        recomputed.output[rows],
        recomputed.sizes[rows],
        RoundingSpread(spread.mean[rows], spread.variance[rows]),
    )


def _joined(parts: list[Recomputed]) -> Recomputed:
    return Recomputed(
        np.concatenate([part.output for part in parts]),
        np.concatenate([part.sizes for part in parts]),
        RoundingSpread(
            np.concatenate([part.rounding.mean for part in parts]),
            np.concatenate([part.rounding.variance for part in parts]),
        ),
    )
