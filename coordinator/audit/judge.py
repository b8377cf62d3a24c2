"""From suspicion to verdict: the rows in question computed again in float64 from the canonical weights.

Guarantees: a result is called wrong only when a row that the node itself signed differs from the truth by more than
`trust.recompute` allows this very row, or many rows together by more than `trust.bias` allows, or where the weights are not at hand
a row from what two unrelated witnesses agree upon by more than `trust.testimony` allows; evidence of it is on disk, whole, before
anybody hears of the verdict, if the disk takes it; if not, the verdict stands all the same, and the evidence is tried again
(`evidence_keeper.py`). Nothing that a node says in its defence or by its silence matters.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...ids import ExpertKey, short
from ...protos.codec import raw_bytes, wire_dtype
from ...trust.audit_statements import VerdictKind, VerdictStatement, millionths
from ...trust.bias import weigh_bias
from ...trust.bias_check import joined_pairs
from ...trust.bias_evidence import BiasEvidence, CountedFrame
from ...trust.evidence import Evidence
from ...trust.keys import Identity
from ...trust.log_entries import LogEntry
from ...trust.recompute import Recomputed, Tolerance, compare, recompute
from ...trust.signed_frame import MalformedEvidenceError, SignedFrame, StatedRouting
from ...trust.stated_tensors import StatedTensor, StatedType
from ...trust.statements import manifest_statement
from ...trust.testimony import Testimony
from ..dispatch.verified_result import VerifiedResult
from .bias_watch import CountedRows
from .canonical_weights import CanonicalExperts
from .evidence_keeper import EvidenceKeeper
from .question import Question

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """That a signed result was wrong.

    Attributes:
        what: One line for people.
        evidence: The file that proves it, or will once the disk takes it; None when it cannot be put into one.
    """

    what: str
    evidence: Path | None


class Judge:
    """Decides about the results of one coordinator's nodes. For one thread."""

    def __init__(
        self,
        keeper: EvidenceKeeper,
        experts: CanonicalExperts,
        identity: Identity,
        tolerance: Tolerance | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Args: keeper takes evidence; identity signs verdicts; tolerance is what honest nodes may differ by."""
        self._keeper = keeper
        self._experts = experts
        self._identity = identity
        self.tolerance = tolerance or Tolerance()
        self._clock = clock

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
        """A verdict with its evidence when the rows asked about are wrong; None when they are as they should be."""
        layer = question.verified.task.layer
        found = compare(question.output, recomputed, self.tolerance)
        if not found.wrong:
            return None
        verdict = self._verdict(question.verified, VerdictKind.WRONG, found.worst_error, found.worst_allowed)
        path = self._keep(question.verified, self._evidence(question.verified, verdict))
        row = int(question.selection.rows[found.worst])
        return Verdict(
            f"a result that it signed was wrong: layer {layer}, row {row} of frame {question.verified.task.sequence} "
            f"is off by {found.worst_error:.2%} of its size, allowed are {found.worst_allowed:.2%}",
            path,
        )

    def witnessed(self, question: Question, found: Testimony, witnesses: str) -> Verdict:
        """The verdict with its evidence when two unrelated nodes agree that a row in question is wrong."""
        verified, worst = question.verified, int(np.argmax(found.errors))
        error = float(found.errors[worst])
        verdict = self._verdict(verified, VerdictKind.WRONG, error, found.allowed)
        path = self._keep(verified, self._evidence(verified, verdict))
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
        path = self._keep(last, evidence)
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

    def _keep(self, verified: VerifiedResult, evidence: Evidence | BiasEvidence) -> Path | None:
        task = verified.task
        name = f"{evidence.verdict.decided_unix_s}-{short(verified.host.node)}-{task.session.hex()[:8]}-{task.sequence}"
        try:
            content = evidence.encode()
        except MalformedEvidenceError as error:
            log.error(
                "a verdict against node %s stands without evidence: %s", short(verified.host.node), error
            )
            return None
        return self._keeper.keep(name, content, LogEntry(evidence.verdict, evidence.verdict_signature))


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
