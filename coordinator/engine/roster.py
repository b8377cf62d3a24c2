"""All unfinished answers, and the one lock around them.

Guarantees: an answer leaves the roster exactly once, and its pages are free from then on; whoever takes it out tells the
observer; an answer in a step leaves when the step is over. Tokens that were made from results of a node that was convicted are
taken back, unless they have been read; those of audited answers cannot be read before all that they follow from is known to
be right. Nobody outside is called while the lock is held, so that readers, observers and the network may call back; only
whether a node is trusted is asked, which must come at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Set
from time import monotonic

import numpy as np

from ...errors import FolkmootError, UnavailableError
from ...ids import NodeId, short
from ...models.pool import StepTally
from .answer import Answer
from .coverage_gate import CoverageGate
from .ended_answers import EndedAnswer, EndedAnswers
from .faults import EngineClosedError, NotCoveredError, OverloadedError
from .herald import Herald, News
from .observer import EngineObserver
from .place import Place
from .scheduler import Scheduler, StepPlan
from .sequence import Sequence as TokenSequence
from .sequence import State
from .settings import EngineSettings
from .step_audits import StepAudits
from .written import Written

log = logging.getLogger(__name__)

COVERAGE_POLL_S = 0.1
"""How often a lane that has nothing else to do asks whether missing experts are back."""


class Roster:
    """Where requests come in, lanes take steps from, and answers go out."""

    def __init__(
        self,
        scheduler: Scheduler,
        settings: EngineSettings,
        covered: Callable[[], bool],
        observer: EngineObserver,
        trusted: Callable[[NodeId], bool],
    ) -> None:
        """`trusted` says whether a node's results may be used; asked when a step is over, from lanes' threads."""
        self.scheduler = scheduler
        self.tokens_generated = 0
        self.prompt_tokens = 0
        self.draft_tokens = 0
        self.draft_tokens_accepted = 0
        self.answers_rewound = 0
        self.ended = EndedAnswers()
        self.lock = threading.Condition()
        self._settings = settings
        self._covered = covered
        self._herald = Herald(observer)
        self._trusted = trusted
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
            self._herald.fail(expired, self._not_covered_error())

    def answers(self, plan: StepPlan) -> list[Answer]:
        """The answers of a step's chunks, in their order."""
        with self.lock:
            return [self._answers[chunk.sequence.arrival] for chunk in plan.chunks]

    def audits(self, plan: StepPlan) -> StepAudits | None:
        """What a step that is about to run has to be audited for; None when none of its answers is audited."""
        trails = [(chunk.sequence.arrival, chunk.sequence.trail, chunk.rows) for chunk in plan.chunks]
        if all(trail is None for _, trail, _ in trails):
            return None
        rows = np.repeat([trail is not None for _, trail, _ in trails], [rows for _, _, rows in trails])
        members = [arrival for arrival, trail, _ in trails if trail is not None]
        audits = StepAudits(rows, members, self.audit_ended)
        with self.lock:
            for _, trail, _ in trails:
                if trail is not None:
                    trail.step(audits)
        return audits

    def settle(
        self, plan: StepPlan, written: Iterable[Written], tally: StepTally, audits: StepAudits | None = None
    ) -> None:
        """A step has run to its end: hands its deltas out and takes its tokens in.

        Answers that go on get their deltas while no other lane can have them, and so in order; those that end get them when
        their pages are free. Nothing comes of a step for an answer that must be taken back.
        """
        results = {entry.answer.sequence.arrival: entry for entry in written}
        doomed = {arrival for arrival, entry in results.items() if entry.answer.recall is not None}
        if tally.spoilt or not all(map(self._trusted, tally.nodes)):
            doomed = {chunk.sequence.arrival for chunk in plan.chunks}
        for arrival, entry in results.items():
            if arrival not in doomed and (entry.waits or not entry.ends):
                self._herald.deliver(entry)
        ended: list[Written] = []
        left: list[Answer] = []
        news = News()
        with self.lock:
            recovered = self._gate.step_succeeded()
            if audits is not None:
                audits.expect(tally.audits)
            # A verdict may have come since. Whoever convicts takes the trust away first, and rewinds under this lock.
            late = not all(map(self._trusted, tally.nodes))
            doomed.update(
                arrival
                for arrival, entry in results.items()
                if entry.ends and not entry.waits and (late or entry.answer.recall is not None)
            )
            made = [
                None if chunk.sequence.arrival in doomed else results.get(chunk.sequence.arrival)
                for chunk in plan.chunks
            ]
            before = [Place(chunk.start, len(chunk.sequence.tokens)) for chunk in plan.chunks]
            self.scheduler.complete(plan, [found.tokens if found else [] for found in made])
            for chunk, place, found in zip(plan.chunks, before, made, strict=True):
                answer = self._answers[chunk.sequence.arrival]
                self.draft_tokens += len(chunk.drafts)
                if found is not None:
                    self.tokens_generated += len(found.deltas)
                    self.draft_tokens_accepted += found.drafts_kept
                if answer.generation.ended:
                    left.append(answer)
                elif chunk.sequence.arrival in doomed:
                    answer.recall_to(place)
                    self._take_back(answer)
                elif found is not None and found.ends and not found.waits:
                    ended.append(found)
                elif found is not None and found.spoilt:
                    self.scheduler.compute_again_plainly(chunk.sequence)
                    self._take_back(answer)
                else:
                    answer.advanced(chunk.end)
                    if late:
                        answer.recall_to(place)
                    answer.consumed(tally.nodes, place)
                    if answer.recall is not None:
                        self._take_back(answer)
                    elif found is not None and found.ends:
                        self.scheduler.hold(chunk.sequence)
                    self._look_at_audits(answer, news)
            for answer in left:
                self._remove(answer)
            for entry in ended:
                self._note_end(entry, tally.nodes)
                self._remove(entry.answer)
            self.lock.notify_all()
        if recovered:
            log.info("experts answer again: %s", self._trouble)
        for answer in left:
            self._report_left(answer)
        for entry in ended:
            self._herald.deliver(entry)
        self._herald.tell(news)

    def audit_ended(self, audits: StepAudits, error: FolkmootError | None) -> None:
        """A result of a step was found right, or cannot be audited."""
        news = News()
        with self.lock:
            audits.passed_count += error is None
            audits.error = audits.error or error
            if audits.done or error is not None:
                for arrival in list(audits.members):
                    if arrival in self._answers:
                        self._look_at_audits(self._answers[arrival], news)
                self.lock.notify_all()
        self._herald.tell(news)

    def rewind(self, node: NodeId) -> None:
        """A node was convicted: takes every answer back to before the first of its results that is not known to be right."""
        with self.lock:
            before = self.answers_rewound
            for answer in list(self._answers.values()):
                place = answer.condemn(node)
                if place is not None:
                    answer.recall_to(place)
                    if answer.sequence.state is not State.STEPPING:
                        self._take_back(answer)
            rewound, doubted = self.answers_rewound - before, self.ended.doubt(node)
            self.lock.notify_all()
        log.warning(
            "results of node %s count for nothing: %d answers are computed again, %d that have ended are doubted",
            short(node),
            rewound,
            doubted,
        )

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
                    self._take_back(answer)
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
            self._report_left(answer)
        self._herald.fail(failed, self._not_covered_error())

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
        self._herald.report(answer, "cancelled")

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

    def _look_at_audits(self, answer: Answer, news: News) -> None:
        """Takes in what is known of an answer's audits by now; called with the lock held."""
        trail = answer.sequence.trail
        if trail is None:
            return
        if trail.error is not None:
            stepping = answer.sequence.state is State.STEPPING
            (news.broken if stepping else news.failed).append((answer, trail.error))
            if not stepping:
                self._remove(answer)
            return
        length = trail.cleared()
        if length is not None:
            answer.generation.audits_passed = trail.audits_passed
            news.released.append((answer, length - answer.generation.prompt_tokens))
        if trail.clear and answer.sequence.state is State.HELD:
            self._remove(answer)

    def _take_back(self, answer: Answer) -> None:
        """Takes an answer back if it is to be; it is in no step. Called with the lock held."""
        if answer.recall is None:
            return
        (cached, length), answer.recall = answer.recall, None
        generation, sequence = answer.generation, answer.sequence
        self.answers_rewound += not generation.rewound
        made = generation.completion_tokens
        kept = generation.rewind(length - generation.prompt_tokens)
        self.tokens_generated -= made - kept
        place = Place(cached, generation.prompt_tokens + kept)
        self.scheduler.take_back(sequence, place)
        answer.writer.rewind(sequence.tokens[generation.prompt_tokens :])

    def _note_end(self, entry: Written, nodes: Set[NodeId]) -> None:
        if entry.error is None:
            answer = entry.answer
            sources = frozenset(answer.sequence.sources.nodes | nodes)
            self.ended.add(EndedAnswer(answer.generation.id, sources, time.time()))

    def _fail_all(self, chosen: Callable[[TokenSequence], bool], error: FolkmootError) -> None:
        with self.lock:
            failed = [answer for answer in self._answers.values() if chosen(answer.sequence)]
            for answer in failed:
                self._remove(answer)
            self.lock.notify_all()
        self._herald.fail(failed, error)

    def _remove(self, answer: Answer) -> None:
        del self._answers[answer.sequence.arrival]
        self.scheduler.end(answer.sequence)

    def _report_left(self, answer: Answer) -> None:
        self._herald.report(answer, "failed" if self._closed or answer.generation.failed else "cancelled")

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
