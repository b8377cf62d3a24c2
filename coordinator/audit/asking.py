"""How a question goes out, and what comes back to the auditor's thread.

Guarantees: each question that is asked comes back once, as an `Answer` in the inbox, whatever becomes of its node.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from ..dispatch.challenge import Opened
from ..dispatch.host import Host
from ..dispatch.verified_result import Rivals
from .counters import AuditCounters
from .covering import Covering
from .hearings import Answered, Shown
from .inbox import Inbox
from .question import Question
from .unusable_results import Unusable


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question.

    Attributes:
        question: Which.
        opened: The opening, or why there is none.
        came_s: When.
        covering: What it is a part of; None when nobody waits for it.
    """

    question: Question
    opened: Opened
    came_s: float
    covering: Covering | None = None


Incoming = Answer | Rivals | Answered | Shown | Unusable
"""What the auditor's thread is handed beside results."""


class Asker:
    """Asks for one auditor. `ask` and `came_back` are for its thread."""

    def __init__(self, inbox: Inbox[Incoming], counters: AuditCounters) -> None:
        self._inbox = inbox
        self._counters = counters
        self._rows_out: Counter[Host] = Counter()

    def ask(self, question: Question, covering: Covering | None = None) -> None:
        """Sends a question; what comes of it goes to the inbox."""
        host, rows = question.verified.host, len(question.selection.rows)
        # A node opens one after another, and each is given the time for those before it.
        deadline_s = host.deadline_s(rows + self._rows_out[host])
        challenge = question.challenge(
            deadline_s,
            lambda opened: self._inbox.answer(Answer(question, opened, time.monotonic(), covering)),
        )
        host.ask(challenge)
        self._rows_out[host] += rows
        self._counters.challenged()

    def came_back(self, answer: Answer) -> None:
        """A question is out no more."""
        host = answer.question.verified.host
        self._rows_out[host] -= len(answer.question.selection.rows)
        if self._rows_out[host] <= 0:
            del self._rows_out[host]
