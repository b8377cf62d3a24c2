"""How a question goes out, and what comes back to the auditor's thread.

Guarantees: each question that is asked comes back once, as an `Answer` in the inbox, whatever becomes of its node.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..dispatch.challenge import Opened
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
    """Asks for one auditor."""

    def __init__(self, inbox: Inbox[Incoming], counters: AuditCounters) -> None:
        self._inbox = inbox
        self._counters = counters

    def ask(self, question: Question, deadline_s: float, covering: Covering | None = None) -> None:
        """Sends a question; what comes of it goes to the inbox."""
        question.verified.host.ask(
            question.challenge(
                deadline_s,
                lambda opened: self._inbox.answer(Answer(question, opened, time.monotonic(), covering)),
            )
        )
        self._counters.challenged()
