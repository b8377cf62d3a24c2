"""Whether answers to a probe are right, and what becomes of a node whose answers are not.

Guarantees: an answer counts only when the node's key signed it for exactly the frame that was sent, as with any result; it is
wrong only when it differs from the truth by more than `trust.recompute` allows the row, which is looked into where it differs by more than
every row is allowed. Where results are audited a wrong answer is a verdict with its evidence, like any wrong signed result. For one
thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from ...errors import TrustError, WireError
from ...ids import ExpertKey, NodeId
from ...protos.folkmoot.v1 import link_pb2
from ...trust.audit_statements import OpeningKind
from ...trust.expert_arithmetic import Floats, sizes
from ...trust.recompute import PROFILE_TOLERANCE, Recomputed, Tolerance, compare, recompute
from ...trust.statements import TaskStatement
from ..audit.canonical_weights import CanonicalExperts
from ..audit.freed_memory import give_back
from ..audit.judge import Judge
from ..audit.question import Question, signed_output
from ..audit.selection import SelectionCaps, cover
from ..audit.standing_book import StandingBook
from ..dispatch.acceptance import Expected, NotFiniteError, accept, check_unread, reason_of
from ..dispatch.counters import DispatchCounters
from ..dispatch.host import SentFrame
from ..dispatch.part import Part
from ..dispatch.verified_result import VerifiedResult, Watcher
from ..hub.pace import SHORTEST_SERVICE_S
from .trial import TrialFrame

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Speed:
    """What was seen of a node's speed.

    Attributes:
        rows: Rows that it answered.
        work: Bytes of weights that they took.
        rows_per_second, bytes_per_second: How fast that went, its link included.
    """

    rows: int
    work: float
    rows_per_second: float
    bytes_per_second: float


@dataclass(frozen=True, eq=False)
class Asked:
    """A frame of a probe with what came back."""

    frame: TrialFrame
    part: Part
    sent: SentFrame
    result: link_pb2.Result


class WrongAnswerError(TrustError):
    """A node answered rows wrongly whose answers are known."""


class Checker:
    """Looks at the answers of one coordinator's nodes."""

    def __init__(
        self,
        coordinator_key: bytes,
        experts: CanonicalExperts,
        counters: DispatchCounters,
        watcher: Watcher | None,
        judge: Judge | None,
        standings: StandingBook,
        on_convicted: Callable[[NodeId], None],
    ) -> None:
        """`watcher` is handed every answer that is the node's own; `judge` finds verdicts, None where nothing is audited;
        `on_convicted` hears of them once the node stands accordingly."""
        self._coordinator_key = coordinator_key
        self._experts = experts
        self._counters = counters
        self._watcher = watcher
        self._judge = judge
        self._standings = standings
        self._on_convicted = on_convicted

    def check(self, asked: Sequence[Asked]) -> Speed | None:
        """How fast a node answered; None when it is cut off already for what it answered.

        Raises:
            WrongAnswerError: when an answer is wrong, and no verdict has cut the node off.
        """
        for one in asked:
            if not self._is_right(one):
                return None
        service_s = [max(one.sent.service_s, SHORTEST_SERVICE_S) for one in asked]
        rows = sum(one.sent.rows for one in asked)
        return Speed(
            rows,
            sum(one.sent.work for one in asked),
            rows / sum(service_s),
            median(one.sent.work / taken_s for one, taken_s in zip(asked, service_s, strict=True)),
        )

    def _is_right(self, one: Asked) -> bool:
        host, sent = one.part.host, one.sent
        task = one.part.task(self._coordinator_key, self._experts.manifest, one.frame.layer, sent.sequence)
        try:
            accepted = accept(one.result, Expected(task, host.key))
        except (WireError, TrustError) as error:
            reason = reason_of(error)
            self._counters.rejected(reason, signed=bool(one.result.signature))
            host.rejected(sent, error, reason)
            if isinstance(error, NotFiniteError) and self._judge is not None:
                self._judge_unusable(one, task)
            return False
        self._counters.verified()
        host.verified(sent)
        verified = VerifiedResult(
            host, task, one.frame.pairs, one.frame.hidden, one.result, accepted.statement
        )
        if self._watcher is not None:
            self._watcher(verified)
        signed = accepted.output.numpy()
        return _is_near(signed, one.frame) or self._is_allowed(verified, one.frame, signed)

    def _judge_unusable(self, one: Asked, task: TaskStatement) -> None:
        """Convicts a node that signed numbers which no model has, unless float32 may have left its range."""
        host, frame = one.part.host, one.frame
        try:
            statement = check_unread(one.result, Expected(task, host.key))
        except TrustError:
            return
        verified = VerifiedResult(host, task, frame.pairs, frame.hidden, one.result, statement)
        self._is_allowed(verified, frame, signed_output(verified))

    def _is_allowed(self, verified: VerifiedResult, frame: TrialFrame, signed: Floats) -> bool:
        """Whether an answer that most honest nodes would not give is one all the same. Raises WrongAnswerError."""
        rows, layer = len(frame.hidden), frame.layer
        [selection] = cover(frame.pairs, rows, np.arange(rows), {}, SelectionCaps(rows, rows, rows))
        with self._experts.in_turn:
            recomputed = recompute(
                self._experts.form(frame.trials[0].key),
                lambda expert: self._experts.weights(ExpertKey(layer, expert)),
                frame.hidden.double().numpy(),
                selection.by_expert,
            )
            give_back()
        tolerance = self._judge.tolerance if self._judge is not None else Tolerance()
        found = compare(signed, recomputed, tolerance)
        if not found.wrong:
            return True
        if self._convicted(Question.about(verified, selection, OpeningKind.TIGHT), recomputed):
            return False
        expert = int(frame.pairs.experts[found.worst])
        raise WrongAnswerError(
            f"rows with a known answer came back wrong: layer {layer} expert {expert} is off by "
            f"{found.worst_error:.2%} of its size, allowed are {found.worst_allowed:.2%}"
        )

    def _convicted(self, question: Question, recomputed: Recomputed) -> bool:
        """Whether a verdict was found, which cuts the node off."""
        if self._judge is None:
            return False
        node = question.verified.host.node
        verdict = self._judge.judge(question, recomputed)
        if verdict is not None:
            self._standings.convicted(node, verdict.what)
            self._on_convicted(node)
        return verdict is not None


def _is_near(signed: Floats, frame: TrialFrame) -> bool:
    """Whether no row differs by more than every row is allowed."""
    differences, truths = sizes([signed.astype(np.float64) - frame.answer]), sizes([frame.answer])
    return bool((differences <= PROFILE_TOLERANCE * truths).all())
