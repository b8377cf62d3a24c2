"""The audits of results that somebody waits for: how they are asked, and how they end.

Guarantees: each result that is taken ends in one word to whoever waits, unless it is wrong or nobody waits any more; what cannot
be asked about, or is not opened, is computed; a fault ends the audit of one result and no other. For one thread.
"""

from __future__ import annotations

import logging
import time
from functools import partial

from ...errors import FolkmootError, ModelError
from ..dispatch.challenge import Opened, Unopened
from ..dispatch.host import Host
from ..dispatch.verified_result import Cover, VerifiedResult
from .asking import Answer, Asker, Incoming
from .chooser import Chooser
from .consequences import Consequences
from .counters import AuditCounters, AuditOutcome
from .covering import AuditImpossibleError, Covering, Urgent, UrgentLine
from .examiner import Examiner, Finding
from .hearings import Hearings
from .inbox import Inbox
from .question import Question

log = logging.getLogger(__name__)


class UrgentAudits:
    """Of one coordinator."""

    def __init__(
        self,
        chooser: Chooser,
        examiner: Examiner,
        consequences: Consequences,
        asker: Asker,
        hearings: Hearings,
        inbox: Inbox[Incoming],
        counters: AuditCounters,
    ) -> None:
        self._chooser = chooser
        self._examiner = examiner
        self._consequences = consequences
        self._asker = asker
        self._hearings = hearings
        self._inbox = inbox
        self._counters = counters
        self._lines: dict[Host, UrgentLine] = {}

    def __len__(self) -> int:
        """How many questions wait to be asked."""
        return sum(map(len, self._lines.values()))

    def cover(self, verified: VerifiedResult, cover: Cover) -> None:
        """Lines up all that must be asked about a result."""
        selections = self._chooser.covering(verified, cover.rows)
        covering = Covering(verified, cover, len(selections))
        line = self._lines.setdefault(verified.host, UrgentLine())
        for selection in selections:
            covering.subjects.update(selection.subjects)
            line.add(Urgent(covering, selection))

    def ask(self) -> None:
        """Asks about all that may be asked about now, whatever the pace."""
        for line in self._lines.values():
            while (urgent := line.next(time.monotonic())) is not None:
                try:
                    self._ask_about(urgent, line)
                except Exception as error:
                    log.exception("a result that somebody waits for cannot be asked about")
                    self._give_up(urgent.covering, error)

    def came_back(self, answer: Answer, covering: Covering) -> None:
        """A question is out no more."""
        question, opened = answer.question, answer.opened
        is_open = not isinstance(opened, Unopened) and not opened.refused
        line = self._lines[question.verified.host]
        line.ended(answer.came_s, opened=is_open)
        self._look_into(covering, question, opened)

    def forget_idle(self, now_s: float) -> None:
        """Forgets the nodes that nothing is asked of."""
        for host in [host for host, line in self._lines.items() if line.idle and not line.silent(now_s)]:
            del self._lines[host]

    def _ask_about(self, urgent: Urgent, line: UrgentLine) -> None:
        covering, selection = urgent.covering, urgent.selection
        if self._moot(covering):
            return
        host = covering.verified.host
        kind = self._chooser.kind()
        question = Question.about(covering.verified, selection, kind)
        serves = self._consequences.serves(host.node)
        if not serves or line.silent(time.monotonic()) or not self._chooser.fits(selection):
            self._look_into(covering, question, None)
            return
        self._asker.ask(question, covering)
        line.asked()

    def _look_into(self, covering: Covering, question: Question, opened: Opened | None) -> None:
        """Acts on what came of a question, or on that it cannot be asked."""
        if self._moot(covering):
            return
        try:
            finding = self._found(question, opened)
        except Exception as error:
            if not isinstance(error, ModelError) or not self._hearings.open(
                question, partial(self._heard, covering, question, error)
            ):
                log.exception("a result that somebody waits for can be neither audited nor computed again")
                self._give_up(covering, error)
            return
        self._conclude(covering, question, finding)

    def _heard(
        self, covering: Covering, question: Question, error: Exception, finding: Finding | None
    ) -> None:
        """Witnesses were asked about a result in place of the weights, which cannot be had for the reason of the error."""
        if self._moot(covering):
            return
        if finding is None:
            self._give_up(covering, error)
        else:
            self._conclude(covering, question, finding)

    def _conclude(self, covering: Covering, question: Question, finding: Finding) -> None:
        node = question.verified.host.node
        self._consequences.ended(node, finding)
        if finding.outcome is AuditOutcome.WRONG:
            self._end(covering)
            return
        covering.passed = covering.passed and finding.good
        covering.left -= 1
        if not covering.left:
            self._consequences.note(node, covering.subjects, covering.passed)
            self._end(covering)
            covering.cover.step.passed()

    def _found(self, question: Question, opened: Opened | None) -> Finding:
        """Examines an opening, and computes the rows where it cannot be examined for whatever reason."""
        if opened is None:
            return self._examiner.recompute(question)
        try:
            return self._examiner.examine(question, opened)
        except Exception:
            log.exception("an opening that somebody waits for could not be examined; its rows are computed")
            return self._examiner.recompute(question)

    def _moot(self, covering: Covering) -> bool:
        """Whether an audit has ended, or nobody waits for it any more, which ends it."""
        if not covering.over and not covering.cover.step.wanted:
            self._counters.ended(AuditOutcome.ABANDONED)
            self._end(covering)
        return covering.over

    def _give_up(self, covering: Covering, error: Exception) -> None:
        if not covering.over:
            self._counters.ended(AuditOutcome.ABANDONED)
            self._end(covering)
            covering.cover.step.impossible(_impossible(error))

    def _end(self, covering: Covering) -> None:
        covering.over = True
        self._inbox.release(covering.verified)


def _impossible(error: Exception) -> AuditImpossibleError:
    why = str(error) if isinstance(error, FolkmootError) else type(error).__name__
    return AuditImpossibleError(
        f"a result behind this answer can be neither audited nor computed again ({why})",
        advice="ask again; the coordinator's log has more",
    )
