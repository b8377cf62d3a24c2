"""Second answers beside first ones: each pair is an audit that costs no node anything.

Guarantees: how far two answers to the same rows are apart is known exactly; what is further apart than two honest ones are is a
suspicion against all who answered, and each of their results is computed again where they differ most; only that convicts, or
witnesses where the weights are not at hand. What cannot be found out about one of them keeps nobody from looking at the others.
Answers of a node that does not serve any more are not looked at. For one thread.

Letters: R rows of the first answer, H hidden size.
"""

from __future__ import annotations

import logging
from functools import partial

import numpy as np

from ...errors import FolkmootError, ModelError
from ...ids import NodeId, short
from ...trust.audit_statements import OpeningKind
from ...trust.expert_arithmetic import Doubles
from ...trust.testimony import APART_RIGHT
from ..dispatch.pairs import Int64s
from ..dispatch.verified_result import Rivals, VerifiedResult
from .asking import Incoming
from .chooser import Chooser
from .consequences import Consequences
from .counters import AuditCounters, AuditOutcome
from .examiner import Examiner, Finding
from .hearings import Hearings
from .inbox import Inbox
from .question import Question, signed_output

log = logging.getLogger(__name__)


class SecondAnswers:
    """Of one coordinator."""

    def __init__(
        self,
        chooser: Chooser,
        examiner: Examiner,
        consequences: Consequences,
        hearings: Hearings,
        inbox: Inbox[Incoming],
        counters: AuditCounters,
    ) -> None:
        self._chooser = chooser
        self._examiner = examiner
        self._consequences = consequences
        self._hearings = hearings
        self._inbox = inbox
        self._counters = counters

    def compare(self, rivals: Rivals) -> None:
        """Compares both answers, and has the results computed again if they differ.

        Raises:
            FolkmootError: when canonical weights cannot be read.
        """
        sides = (rivals.first, *rivals.seconds)
        if not all(self._consequences.serves(verified.host.node) for verified, _ in sides):
            return
        apart, scale = _apart(rivals)
        suspect = np.flatnonzero(apart > APART_RIGHT * self._examiner.tolerance.row * scale)
        if not len(suspect):
            return
        self._counters.disagreed()
        names = ", ".join(sorted({short(verified.host.node) for verified, _ in sides}))
        log.warning(
            "nodes %s answered the same rows differently: layer %d, %d rows",
            names,
            rivals.first[0].task.layer,
            len(suspect),
        )
        # Where they differ most first: not all of them may fit.
        ordered = suspect[np.argsort(-(apart[suspect] / np.maximum(scale[suspect], 1e-300)))]
        step_rows = rivals.first[1][ordered]
        concerned = {verified.host.node for verified, _ in sides}
        failed: FolkmootError | None = None
        for verified, rows in sides:
            try:
                self._look_into(verified, _places(rows, step_rows), concerned)
            except FolkmootError as error:
                failed = error
        if failed is not None:
            raise failed

    def _look_into(self, verified: VerifiedResult, rows: Int64s, concerned: set[NodeId]) -> None:
        """Computes some rows of a result again; those that matter most come first."""
        if not len(rows) or not self._consequences.serves(verified.host.node):
            return
        for selection in self._chooser.covering(verified, np.sort(rows[: self._chooser.most_rows])):
            question = Question.about(verified, selection, OpeningKind.RAW)
            try:
                finding = self._examiner.recompute(question)
            except ModelError:
                if not self._inbox.reserve(verified.size):
                    raise
                if not self._hearings.open(question, partial(self._heard, verified), concerned):
                    self._inbox.free(verified.size)
                    raise
                continue
            self._consequences.ended(verified.host.node, finding)
            if finding.outcome is AuditOutcome.WRONG:
                return

    def _heard(self, verified: VerifiedResult, finding: Finding | None) -> None:
        """Witnesses were asked about a result in place of the weights."""
        self._inbox.free(verified.size)
        node = verified.host.node
        if finding is None or not self._consequences.serves(node):
            self._counters.ended(AuditOutcome.ABANDONED)
        else:
            self._consequences.ended(node, finding)


def _apart(rivals: Rivals) -> tuple[Doubles, Doubles]:
    """How far the two answers to each row of the first are apart, and the larger one's size: [R] each."""
    verified, rows = rivals.first
    first = signed_output(verified).astype(np.float64)  # [R, H]
    second = np.zeros_like(first)
    for other, of_rows in rivals.seconds:
        second[np.searchsorted(rows, of_rows)] += signed_output(other)
    sizes = np.maximum(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1))
    return np.linalg.norm(first - second, axis=1), sizes


def _places(rows: Int64s, wanted: Int64s) -> Int64s:
    """Where the wanted rows of the step are in a result, in the order wanted; those that it does not have are left out."""
    return np.searchsorted(rows, wanted[np.isin(wanted, rows)])
