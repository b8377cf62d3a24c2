"""All unfinished answers, and the one lock around them.

Guarantees: an answer leaves the roster exactly once, and its pages are free from then on; whoever takes it out tells the
observer; an answer in a step leaves when the step is over. Nobody outside is called while the lock is held, so that
readers, observers and the network may call back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic

from ...errors import FolkmootError, UnavailableError
from .answer import Answer
from .coverage_gate import CoverageGate
from .faults import EngineClosedError, NotCoveredError, OverloadedError
from .observer import EngineObserver, Outcome
from .requests import Delta
from .scheduler import Scheduler, StepPlan
from .sequence import Sequence as TokenSequence
from .sequence import State
from .settings import EngineSettings

log = logging.getLogger(__name__)

COVERAGE_POLL_S = 0.1
"""How often a lane that has nothing else to do asks whether missing experts are back."""


@dataclass(frozen=True)
class Written:
    """What a step made of one answer.

    Attributes:
        answer: The answer.
        deltas: One for each new token; none, and no error, when drafts spoilt the step for it.
        error: Why it must fail after these.
    """

    answer: Answer
    deltas: tuple[Delta, ...]
    error: FolkmootError | None = None

    @property
    def ends(self) -> bool:
        """Whether the answer is over."""
        return self.error is not None or bool(self.deltas and self.deltas[-1].finish_reason)

    @property
    def spoilt(self) -> bool:
        """Whether it must be computed again, without drafts."""
        return not self.deltas and self.error is None

    @property
    def tokens(self) -> list[int]:
        """Its new tokens."""
        return [token for delta in self.deltas for token in delta.token_ids]

    @property
    def drafts_kept(self) -> int:
        """Tokens that it has on top of the one that a step without drafts makes."""
        return max(0, len(self.deltas) - 1)


class Roster:
    """Where requests come in, lanes take steps from, and answers go out."""

    def __init__(
        self,
        scheduler: Scheduler,
        settings: EngineSettings,
        covered: Callable[[], bool],
        observer: EngineObserver,
    ) -> None:
        self.scheduler = scheduler
        self.tokens_generated = 0
        self.prompt_tokens = 0
        self.draft_tokens = 0
        self.draft_tokens_accepted = 0
        self.lock = threading.Condition()
        self._settings = settings
        self._covered = covered
        self._observer = observer
        self._gate = CoverageGate()
        self._trouble = ""
        self._answers: dict[int, Answer] = {}
        self._closed = False

    def add(self, answer: Answer) -> None:
        """Queues a new answer.

        Raises:
            OverloadedError: when too many wait already.
            EngineClosedError: after `close`.
        """
        with self.lock:
            if self._closed:
                raise closed_error()
            if len(self.scheduler.waiting) >= self._settings.max_waiting:
                raise OverloadedError(
                    f"{len(self.scheduler.waiting)} requests wait already",
                    retry_after_s=self._settings.retry_after_s,
                    advice="try again later",
                )
            self._answers[answer.sequence.arrival] = answer
            self.prompt_tokens += len(answer.sequence.tokens)
            self.scheduler.add(answer.sequence)
            self.lock.notify_all()

    def next_step(self) -> StepPlan | None:
        """Waits until there is a step to take; None when the engine is closed. Answers that waited too long fail."""
        while True:
            covered = self._covered() if self.scheduler.has_work else None
            with self.lock:
                if self._closed:
                    return None
                if covered is None and self.scheduler.has_work:
                    continue
                is_open = covered is None or self._gate.is_open(monotonic(), covered)
                expired = self._held_too_long(is_open)
                if not expired:
                    # An expert that is missing must not be needed for a draft's sake.
                    plan = self.scheduler.plan(admit=is_open, draft=is_open)
                    if plan is not None:
                        return plan
                    self.lock.wait(COVERAGE_POLL_S if self.scheduler.waiting and not is_open else None)
                    continue
            self._fail(expired, self._not_covered_error())

    def answers(self, plan: StepPlan) -> list[Answer]:
        """The answers of a step's chunks, in their order."""
        with self.lock:
            return [self._answers[chunk.sequence.arrival] for chunk in plan.chunks]

    def settle(self, plan: StepPlan, written: Iterable[Written]) -> None:
        """A step has run to its end: hands its deltas out and takes its tokens in.

        Answers that go on get their deltas while no other lane can have them, and so in order; those that end get them when
        their pages are free.
        """
        results = {entry.answer.sequence.arrival: entry for entry in written}
        for entry in results.values():
            if not entry.ends:
                self._deliver(entry)
        ended: list[Written] = []
        left: list[Answer] = []
        with self.lock:
            recovered = self._gate.step_succeeded()
            made = [results.get(chunk.sequence.arrival) for chunk in plan.chunks]
            self.scheduler.complete(plan, [found.tokens if found else [] for found in made])
            for chunk, found in zip(plan.chunks, made, strict=True):
                answer = self._answers[chunk.sequence.arrival]
                self.draft_tokens += len(chunk.drafts)
                if answer.generation.ended:
                    left.append(answer)
                elif found is not None and found.ends:
                    ended.append(found)
                elif found is not None and found.spoilt:
                    self.scheduler.compute_again_plainly(chunk.sequence)
                    continue
                answer.advanced(chunk.end)
                if found is not None:
                    self.tokens_generated += len(found.deltas)
                    self.draft_tokens_accepted += found.drafts_kept
            for answer in [*left, *(entry.answer for entry in ended)]:
                self._remove(answer)
            self.lock.notify_all()
        if recovered:
            log.info("experts answer again: %s", self._trouble)
        for answer in left:
            self._report(answer, "failed" if self._closed else "cancelled")
        for entry in ended:
            self._deliver(entry)

    def postpone(self, plan: StepPlan, error: UnavailableError) -> None:
        """A step found no host for some expert: its answers wait and are computed again, or fail if they waited enough."""
        failed: list[Answer] = []
        left: list[Answer] = []
        with self.lock:
            now_s = monotonic()
            self._gate.step_failed(now_s)
            self._trouble = str(error)
            for chunk in plan.chunks:
                answer = self._answers[chunk.sequence.arrival]
                answer.step_failed = True
                if answer.generation.ended:
                    left.append(answer)
                elif answer.blocked_for_s(now_s) >= self._settings.not_covered_wait_s:
                    failed.append(answer)
                else:
                    self.scheduler.withdraw([answer.sequence])
            for answer in left + failed:
                self._remove(answer)
            self.lock.notify_all()
        log.warning(
            "a step of %d requests found no host for an expert; %d of them give up: %s",
            len(plan.chunks),
            len(failed),
            error,
        )
        for answer in left:
            self._report(answer, "failed" if self._closed else "cancelled")
        self._fail(failed, self._not_covered_error())

    def abandon(self, plan: StepPlan, error: FolkmootError) -> None:
        """A step failed for good: so do those of its answers that are still in it."""
        self._fail_all(lambda sequence: self.scheduler.holds(plan, sequence), error)

    def abandon_all(self, error: FolkmootError) -> None:
        """Fails every answer that is not in a step."""
        self._fail_all(lambda sequence: sequence.state is not State.STEPPING, error)

    def cancel(self, arrival: int) -> None:
        """Takes an answer that nobody reads any more out, at once or after the step that it is in."""
        with self.lock:
            answer = self._answers.get(arrival)
            if answer is None or answer.sequence.state is State.STEPPING:
                return
            self._remove(answer)
            self.lock.notify_all()
        self._report(answer, "cancelled")

    def close(self) -> None:
        """Takes no more, ends every generation with `EngineClosedError`, and sends the lanes home after their steps."""
        with self.lock:
            self._closed = True
            unfinished = list(self._answers.values())
            self.lock.notify_all()
        for answer in unfinished:
            answer.generation.fail(closed_error())

    def clear(self) -> None:
        """Takes out what is left once no lane runs any more."""
        self._fail_all(lambda _: True, closed_error())

    def _held_too_long(self, is_open: bool) -> list[Answer]:
        """Takes out the waiting answers whose patience with missing experts is over; called with the lock held."""
        waiting = [self._answers[sequence.arrival] for sequence in self.scheduler.waiting]
        if is_open:
            for answer in waiting:
                if not answer.step_failed:
                    answer.blocked_since_s = None
            return []
        now_s = monotonic()
        expired = [
            answer for answer in waiting if answer.blocked_for_s(now_s) >= self._settings.not_covered_wait_s
        ]
        for answer in expired:
            self._remove(answer)
        return expired

    def _deliver(self, entry: Written) -> None:
        answer = entry.answer
        for delta in entry.deltas:
            now_s = monotonic()
            answer.generation.push(delta)
            if answer.last_token_s is None:
                self._observer.first_token(now_s - answer.submitted_s)
            else:
                self._observer.next_token(now_s - answer.last_token_s)
            answer.last_token_s = now_s
            if delta.finish_reason is not None:
                self._report(answer, delta.finish_reason)
        if entry.error is not None:
            self._fail([answer], entry.error)

    def _fail_all(self, chosen: Callable[[TokenSequence], bool], error: FolkmootError) -> None:
        with self.lock:
            failed = [answer for answer in self._answers.values() if chosen(answer.sequence)]
            for answer in failed:
                self._remove(answer)
            self.lock.notify_all()
        self._fail(failed, error)

    def _fail(self, answers: Sequence[Answer], error: FolkmootError) -> None:
        for answer in answers:
            answer.generation.fail(error)
        for answer in answers:
            self._report(answer, "failed")

    def _remove(self, answer: Answer) -> None:
        del self._answers[answer.sequence.arrival]
        self.scheduler.end(answer.sequence)

    def _report(self, answer: Answer, outcome: Outcome) -> None:
        generation = answer.generation
        seconds = monotonic() - answer.submitted_s
        self._observer.ended(outcome, seconds, generation.prompt_tokens, generation.completion_tokens)

    def _not_covered_error(self) -> NotCoveredError:
        wait_s = self._settings.not_covered_wait_s
        trouble = f" ({self._trouble})" if self._trouble else ""
        return NotCoveredError(
            f"not every expert has a host, for {wait_s:g} s by now{trouble}",
            retry_after_s=self._settings.retry_after_s,
            advice="try again when more nodes have joined",
        )


def closed_error() -> EngineClosedError:
    """What every request meets once the engine is closed."""
    return EngineClosedError(
        "the engine is closed", advice="send the request again when the coordinator is back"
    )
