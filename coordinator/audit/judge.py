"""From suspicion to verdict: the rows in question computed again in float64 from the canonical weights.

Guarantees: a result is called wrong only when a row that the node itself signed differs from the truth by more than
`trust.recompute` allows this very row; evidence of it is on disk, whole, before anybody hears of the verdict; where
evidence cannot be written there is no verdict. Each verdict is handed to the public log; a log that does not take it is an
error in the coordinator's own, and stops nothing. Nothing that a node says in its defence or by its silence matters.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...errors import CapacityError
from ...ids import ExpertKey, short
from ...protos.codec import raw_bytes, wire_dtype
from ...trust.audit_statements import VerdictKind, VerdictStatement, millionths
from ...trust.evidence import SUFFIX, Evidence, StatedRouting
from ...trust.keys import Identity
from ...trust.log_entries import LogEntry
from ...trust.recompute import Comparison, Recomputed, Tolerance, compare, recompute
from ...trust.stated_tensors import StatedTensor, StatedType
from ...trust.statements import manifest_statement
from ..ledger.public_log import EntryLog
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
        evidence = self._evidence(question, found)
        path = self._write(question, evidence.encode())
        self._log(LogEntry(evidence.verdict, evidence.verdict_signature))
        row = int(question.selection.rows[found.worst])
        return Verdict(
            f"a result that it signed was wrong: layer {layer}, row {row} of frame {question.verified.task.sequence} "
            f"is off by {found.worst_error:.2%} of its size, allowed are {found.worst_allowed:.2%}",
            path,
        )

    def biased(self, question: Question, bias: float) -> str:
        """A verdict about many rows, of which those asked about are the last; one line for people.

        There is no evidence of it: no single frame shows a bias. What the log is told is on the coordinator's word.
        """
        verdict = self._verdict(question, VerdictKind.BIASED, bias, self.tolerance.drift)
        self._log(LogEntry.signed(verdict, self._identity))
        layer = question.verified.task.layer
        return f"its results in layer {layer} are biased by {bias:.2%} over many rows"

    def _verdict(
        self, question: Question, kind: VerdictKind, error: float, tolerance: float
    ) -> VerdictStatement:
        task, result = question.verified.task, question.verified.statement
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

    def _evidence(self, question: Question, found: Comparison) -> Evidence:
        verified = question.verified
        task, result = verified.task, verified.statement
        verdict = self._verdict(question, VerdictKind.WRONG, found.worst_error, found.worst_allowed)
        shape = (task.rows, task.hidden)
        return Evidence(
            task=task,
            result=result,
            signature=verified.result.signature,
            input=StatedTensor(
                StatedType(wire_dtype(verified.hidden.dtype)), shape, bytes(raw_bytes(verified.hidden))
            ),
            routing=StatedRouting(
                verified.pairs.experts.tobytes(),
                verified.pairs.rows.tobytes(),
                verified.pairs.gates.tobytes(),
            ),
            output=StatedTensor(StatedType.FLOAT32, shape, verified.result.output.data),
            manifest_signature=self._identity.sign(manifest_statement(task.manifest)),
            verdict=verdict,
            verdict_signature=self._identity.sign(verdict.encode()),
        )

    def _write(self, question: Question, encoded: bytes) -> Path:
        task = question.verified.task
        name = f"{int(self._clock())}-{short(question.verified.host.node)}-{task.session.hex()[:8]}-{task.sequence}"
        path = self._folder / (name + SUFFIX)
        try:
            private_folder(self._folder)
            write_private(path, encoded)
        except OSError as error:
            raise EvidenceNotWrittenError(
                f"evidence cannot be written to {path} ({error.strerror})", advice="make room on the disk"
            ) from error
        return path


def _tell_unlogged(appended: Future[int]) -> None:
    if not appended.cancelled() and (error := appended.exception()) is not None:
        log.error("a verdict is not in the public log: %s", error)
