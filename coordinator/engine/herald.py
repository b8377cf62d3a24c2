"""What readers and the observer are told of answers.

Guarantees: each answer's end is reported once; nothing here needs the roster's lock, and none of it is to be called with it held.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic

from ...errors import FolkmootError
from .answer import Answer
from .observer import EngineObserver, Outcome
from .requests import Delta
from .written import Written


@dataclass
class News:
    """What audits have brought.

    Attributes:
        released: Answers, and how many of their tokens may be read by now.
        failed: Answers that have left because of an error.
        broken: Answers that fail and are still in a step: they are reported when they leave.
    """

    released: list[tuple[Answer, int]] = field(default_factory=list)
    failed: list[tuple[Answer, FolkmootError]] = field(default_factory=list)
    broken: list[tuple[Answer, FolkmootError]] = field(default_factory=list)


class Herald:
    """Tells of one engine's answers."""

    def __init__(self, observer: EngineObserver) -> None:
        self._observer = observer

    def deliver(self, entry: Written) -> None:
        """What a step made of an answer."""
        for delta in entry.deltas:
            entry.answer.generation.push(delta)
            if not entry.answer.generation.delivery.audited:
                self._made(entry.answer, delta)
        if entry.error is not None:
            self.fail([entry.answer], entry.error)

    def tell(self, news: News) -> None:
        """What audits have brought."""
        for answer, tokens in news.released:
            for delta in answer.generation.release(tokens):
                self._made(answer, delta)
        for answer, error in news.failed:
            self.fail([answer], error)
        for answer, error in news.broken:
            answer.generation.fail(error)

    def fail(self, answers: Iterable[Answer], error: FolkmootError) -> None:
        """Answers that have left fail."""
        answers = list(answers)
        for answer in answers:
            answer.generation.fail(error)
        for answer in answers:
            self.report(answer, "failed")

    def report(self, answer: Answer, outcome: Outcome) -> None:
        """An answer has left."""
        generation = answer.generation
        seconds = monotonic() - answer.submitted_s
        self._observer.ended(outcome, seconds, generation.prompt_tokens, generation.completion_tokens)

    def _made(self, answer: Answer, delta: Delta) -> None:
        now_s = monotonic()
        if answer.last_token_s is None:
            self._observer.first_token(now_s - answer.submitted_s)
        else:
            self._observer.next_token(now_s - answer.last_token_s)
        answer.last_token_s = now_s
        if delta.finish_reason is not None:
            self.report(answer, delta.finish_reason)
