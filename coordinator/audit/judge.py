"""From suspicion to verdict: the rows in question computed again in float64 from the canonical weights.

Guarantees: a result is called wrong only when a row that the node itself signed differs from the truth by more than
`trust.recompute` allows this very row, or many rows together by more than `trust.bias` allows, or where the weights are not at hand
a row from what two unrelated witnesses agree upon by more than `trust.testimony` allows; evidence of it is on disk, whole, before
anybody hears of the verdict; where evidence cannot be written there is no verdict. Each verdict is handed to the public log; a log that does not take it is an
error in the coordinator's own, and stops nothing. Nothing that a node says in its defence or by its silence matters.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ...errors import CapacityError
from ...ids import ExpertKey, short
from ...protos.codec import raw_bytes, wire_dtype
from ...trust.audit_statements import VerdictKind, VerdictStatement, millionths
from ...trust.bias import weigh_bias
from ...trust.bias_check import joined_pairs
from ...trust.bias_evidence import BiasEvidence, CountedFrame
from ...trust.evidence import SUFFIX, Evidence
from ...trust.keys import Identity
from ...trust.log_entries import LogEntry
from ...trust.recompute import Recomputed, Tolerance, compare, recompute
from ...trust.signed_frame import SignedFrame, StatedRouting
from ...trust.stated_tensors import StatedTensor, StatedType
from ...trust.statements import manifest_statement
from ...trust.testimony import Testimony
from ..dispatch.verified_result import VerifiedResult
from ..ledger.public_log import EntryLog
from .bias_watch import CountedRows
from .canonical_weights import CanonicalExperts
from .private_files import private_folder, write_private
from .question import Question

log = logging.getLogger(__name__)

EVIDENCE_FOLDER: Final = "evidence"


class EvidenceNotWrittenError(CapacityError):
    """The disk does not take evidence."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """That a signed result was wrong.

    Attributes:
        what: One line for people.
        evidence: The file that proves it.
    """

    what: str
    evidence: Path


class Judge:
    """Decides about the results of one coordinator's nodes. For one thread."""

    def __init__(
        self,
        folder: Path,
        experts: CanonicalExperts,
        identity: Identity,
        tolerance: Tolerance | None = None,
        clock: Callable[[], float] = time.time,
        entry_log: EntryLog | None = None,
    ) -> None:
        """Args: folder is where evidence goes; identity signs verdicts; tolerance is what honest nodes may differ by;
        entry_log is told of verdicts."""
        self._folder = folder / EVIDENCE_FOLDER
        self._experts = experts
        self._identity = identity
        self.tolerance = tolerance or Tolerance()
        self._clock = clock
        self._entry_log = entry_log

    def recompute(self, question: Question) -> Recomputed:
        """What the rows asked about should be.

        Raises:
            ModelError: when the canonical weights cannot be read, or are damaged.
        """
        layer = question.verified.task.layer
        pairs = question.selection.by_expert
        with self._experts.in_turn:
            return recompute(
                self._experts.form(ExpertKey(layer, pairs[0].expert)),
                lambda expert: self._experts.weights(ExpertKey(layer, expert)),
                question.inputs,
                pairs,
            )

    def judge(self, question: Question, recomputed: Recomputed) -> Verdict | None:
        """A verdict with its evidence when the rows asked about are wrong; None when they are as they should be.

        Raises:
            EvidenceNotWrittenError: when the evidence cannot be written.
        """
        layer = question.verified.task.layer
        found = compare(question.output, recomputed, self.tolerance)
        if not found.wrong:
            return None
        verdict = self._verdict(question.verified, VerdictKind.WRONG, found.worst_error, found.worst_allowed)
        evidence = self._evidence(question.verified, verdict)
        path = self._write(question.verified, evidence.encode())
        self._log(LogEntry(evidence.verdict, evidence.verdict_signature))
        row = int(question.selection.rows[found.worst])
        return Verdict(
            f"a result that it signed was wrong: layer {layer}, row {row} of frame {question.verified.task.sequence} "
            f"is off by {found.worst_error:.2%} of its size, allowed are {found.worst_allowed:.2%}",
            path,
        )

    def witnessed(self, question: Question, found: Testimony, witnesses: str) -> Verdict:
        """The verdict with its evidence when two unrelated nodes agree that a row in question is wrong.

        Raises:
            EvidenceNotWrittenError: when the evidence cannot be written.
        """
        verified, worst = question.verified, int(np.argmax(found.errors))
        error = float(found.errors[worst])
        verdict = self._verdict(verified, VerdictKind.WRONG, error, found.allowed)
        path = self._write(verified, self._evidence(verified, verdict).encode())
        self._log(LogEntry.signed(verdict, self._identity))
        return Verdict(
            f"a result that it signed was wrong: layer {verified.task.layer}, row {int(question.selection.rows[worst])} "
            f"of frame {verified.task.sequence} is off by {error:.2%} of its size from what {witnesses} agree upon, "
            f"allowed are {found.allowed:.2%}",
            path,
        )

    def judge_bias(self, rows: Sequence[CountedRows]) -> Verdict | None:
        """A verdict with its evidence when rows of one node and layer, all different, are biased together; None when they are not.

        Raises:
            ModelError: when the canonical weights cannot be read, or are damaged.
            EvidenceNotWrittenError: when the evidence cannot be written.
        """
        frames = [(_frame(one.verified), tuple(int(row) for row in one.rows)) for one in rows]
        layer, pairs = rows[-1].verified.task.layer, joined_pairs(frames)
        with self._experts.in_turn:
            found = weigh_bias(
                self._experts.form(ExpertKey(layer, pairs[0].expert)),
                lambda expert: self._experts.weights(ExpertKey(layer, expert)),
                np.concatenate([frame.input.values()[list(counted)] for frame, counted in frames]),
                np.concatenate([frame.output.values()[list(counted)] for frame, counted in frames]),
                pairs,
                self.tolerance,
            )
        if not found.biased:
            return None
        last = rows[-1].verified
        verdict = self._verdict(last, VerdictKind.BIASED, found.drift, found.allowed)
        evidence = BiasEvidence(
            tuple(CountedFrame(frame, counted) for frame, counted in frames),
            self._identity.sign(manifest_statement(last.task.manifest)),
            verdict,
            self._identity.sign(verdict.encode()),
        )
        path = self._write(last, evidence.encode())
        self._log(LogEntry(verdict, evidence.verdict_signature))
        return Verdict(
            f"its results in layer {layer} are biased by {found.drift:.2%} over {found.rows} rows, allowed are {found.allowed:.2%}",
            path,
        )

    def _verdict(
        self, verified: VerifiedResult, kind: VerdictKind, error: float, tolerance: float
    ) -> VerdictStatement:
        task, result = verified.task, verified.statement
        return VerdictStatement(
            coordinator=task.coordinator,
            node=task.node,
            manifest=task.manifest,
            task=result.task,
            output=result.output,
            kind=kind,
            error_millionths=millionths(error),
            tolerance_millionths=millionths(tolerance),
            decided_unix_s=int(self._clock()),
        )

    def _log(self, entry: LogEntry) -> None:
        if self._entry_log is not None:
            self._entry_log.append(entry).add_done_callback(_tell_unlogged)

    def _evidence(self, verified: VerifiedResult, verdict: VerdictStatement) -> Evidence:
        frame = _frame(verified)
        return Evidence(
            frame.task,
            frame.result,
            frame.signature,
            frame.input,
            frame.routing,
            frame.output,
            manifest_signature=self._identity.sign(manifest_statement(frame.task.manifest)),
            verdict=verdict,
            verdict_signature=self._identity.sign(verdict.encode()),
        )

    def _write(self, verified: VerifiedResult, encoded: bytes) -> Path:
        task = verified.task
        name = f"{int(self._clock())}-{short(verified.host.node)}-{task.session.hex()[:8]}-{task.sequence}"
        path = self._folder / (name + SUFFIX)
        try:
            private_folder(self._folder)
            write_private(path, encoded)
        except OSError as error:
            raise EvidenceNotWrittenError(
                f"evidence cannot be written to {path} ({error.strerror})", advice="make room on the disk"
            ) from error
        return path


def _frame(verified: VerifiedResult) -> SignedFrame:
    task = verified.task
    shape = (task.rows, task.hidden)
    sent = StatedType(wire_dtype(verified.hidden.dtype))
    return SignedFrame(
        task,
        verified.statement,
        verified.result.signature,
        StatedTensor(sent, shape, bytes(raw_bytes(verified.hidden))),
        StatedRouting(
            verified.pairs.experts.tobytes(), verified.pairs.rows.tobytes(), verified.pairs.gates.tobytes()
        ),
        StatedTensor(StatedType.FLOAT32, shape, verified.result.output.data),
    )


def _tell_unlogged(appended: Future[int]) -> None:
    if not appended.cancelled() and (error := appended.exception()) is not None:
        log.error("a verdict is not in the public log: %s", error)
