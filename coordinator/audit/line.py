"""The results of one node that wait for their audit, and the audits of it that are out.

Guarantees: which of them is taken next, and which is given up when there is no room, is drawn from a secure source, so that
no node can tell from what it was asked which of its results are out of danger. Those that are due are asked about at once, whatever the
pace and however slowly the node opens, as long as no more than `DUE_ROWS_AT_ONCE` rows of them are out; they are given up last. The
others are asked about one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ...protos.limits import MAX_CHALLENGED_ROWS_IN_FLIGHT, MAX_OPENED_ROWS
from ...trust.audit_policy import AuditSubject
from ..dispatch.verified_result import VerifiedResult
from .pace import Pace
from .question import Question
from .secret_draws import SecretDraws

DUE_ROWS_AT_ONCE: Final = MAX_CHALLENGED_ROWS_IN_FLIGHT // 2
"""The rest of what a node takes is for what somebody waits for."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A result that is to be audited.

    Attributes:
        verified: The result.
        subjects: For whose sake.
        due: Whether its audit may not be put off.
    """

    verified: VerifiedResult
    subjects: list[AuditSubject]
    due: bool


class Line:
    """One node's. For one thread.

    Attributes:
        pace: How often the node may be asked about what is not due.
        size: Bytes of all that waits.
        due_rows: Rows of due audits that are out.
    """

    def __init__(self, pace: Pace, draws: SecretDraws) -> None:
        self.pace = pace
        self.size = 0
        self.due_rows = 0
        self._draws = draws
        self._due: list[Waiting] = []
        self._others: list[Waiting] = []
        self._out: set[Question] = set()

    def __len__(self) -> int:
        return len(self._due) + len(self._others)

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and nothing that was due is out."""
        return not len(self) and not self._out

    @property
    def has_others(self) -> bool:
        """Whether any of those that wait are not due."""
        return bool(self._others)

    def add(self, waiting: Waiting) -> None:
        """One more that waits."""
        (self._due if waiting.due else self._others).append(waiting)
        self.size += waiting.verified.size

    def draw_due(self) -> Waiting | None:
        """Takes any of those that are due and may be asked about now."""
        has_room = self.due_rows + MAX_OPENED_ROWS <= DUE_ROWS_AT_ONCE
        return self._draw(self._due) if self._due and has_room else None

    def draw_other(self) -> Waiting:
        """Takes any of those that are not due. Raises IndexError when none waits."""
        return self._draw(self._others)

    def give_up(self) -> Waiting:
        """Takes any of those that are not due, or of those that are when there are no others. Raises IndexError when none waits."""
        return self._draw(self._others or self._due)

    def asked(self, question: Question) -> None:
        """A question about a result that was due is out."""
        self._out.add(question)
        self.due_rows += len(question.selection.rows)

    def ended(self, question: Question) -> bool:
        """A question is out no more; whether its result was due."""
        if question not in self._out:
            return False
        self._out.remove(question)
        self.due_rows -= len(question.selection.rows)
        return True

    def _draw(self, waiting: list[Waiting]) -> Waiting:
        at = int(self._draws.take(1)[0] * len(waiting))
        last = waiting.pop()
        drawn = last if at == len(waiting) else waiting[at]
        if drawn is not last:
            waiting[at] = last
        self.size -= drawn.verified.size
        return drawn
