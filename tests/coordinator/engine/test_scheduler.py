"""The scheduler's promises, held under any order of arrivals, steps, cancellations and lost experts."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from folkmoot.coordinator.engine.pages import PageAllocator
from folkmoot.coordinator.engine.place import Place
from folkmoot.coordinator.engine.scheduler import Scheduler, StepPlan
from folkmoot.coordinator.engine.sequence import Sequence, State
from folkmoot.coordinator.engine.settings import EngineSettings
from folkmoot.coordinator.engine.speculation.drafter import Drafter

PAGES = 12
PAGE_TOKENS = 4
LONGEST = PAGES * PAGE_TOKENS
IDLE = (State.WAITING, State.READY, State.HELD)


def scheduler(pages: int = PAGES, **chosen: Any) -> tuple[Scheduler, EngineSettings, PageAllocator]:
    fields: dict[str, Any] = {
        "page_tokens": PAGE_TOKENS,
        "max_step_tokens": 12,
        "prefill_chunk_tokens": 5,
        "max_running": 4,
    }
    limits = EngineSettings(**(fields | chosen))
    allocator = PageAllocator(pages)
    return Scheduler(limits, allocator), limits, allocator


def run(subject: Scheduler, plan: StepPlan, kept: int = 0, token: int = 0) -> None:
    """Lets a step end; sequences that sampled keep up to so many drafts, and have one token more."""
    subject.complete(plan, [[*chunk.drafts[:kept], token] if chunk.samples else [] for chunk in plan.chunks])


class Life(RuleBasedStateMachine):
    """Any course of events with up to three lanes."""

    @initialize(lanes=st.integers(1, 3))
    def begin(self, lanes: int) -> None:
        self.subject, self.limits, self.allocator = scheduler(lanes=lanes, draft_step_tokens=9)
        self.lengths: dict[int, int] = {}
        self.sequences: list[Sequence] = []
        self.plans: list[StepPlan] = []

    @rule(prompt=st.integers(1, LONGEST - 1), answer=st.integers(1, LONGEST))
    def come(self, prompt: int, answer: int) -> None:
        assume(prompt + answer <= LONGEST)
        tokens = [0] * prompt
        drafter = Drafter(tokens, longest=prompt + answer, most=6)
        sequence = Sequence(len(self.lengths), tokens, drafter=drafter)
        self.lengths[sequence.arrival] = prompt + answer
        self.sequences.append(sequence)
        self.subject.add(sequence)

    @precondition(lambda self: len(self.plans) < self.limits.lanes)
    @rule(admit=st.booleans())
    def plan(self, admit: bool) -> None:
        waiting = list(self.subject.waiting)
        plan = self.subject.plan(admit=admit)
        started = [sequence for sequence in waiting if sequence in self.subject.running]
        assert admit or not started
        still = [sequence.arrival for sequence in self.subject.waiting]
        assert not started or max(sequence.arrival for sequence in started) < min(still, default=LONGEST**9)
        if plan is None:
            return
        assert plan.tokens <= self.limits.max_step_tokens
        for chunk in plan.chunks:
            sequence = chunk.sequence
            assert sequence.state is State.STEPPING
            assert not any(other.sequence is sequence for held in self.plans for other in held.chunks)
            assert chunk.start == sequence.cached < chunk.end <= len(sequence.tokens)
            assert chunk.end - chunk.start <= self.limits.prefill_chunk_tokens
            assert len(sequence.pages) * PAGE_TOKENS >= chunk.stop
            assert chunk.samples == (chunk.end == len(sequence.tokens))
            assert chunk.stop < self.lengths[sequence.arrival]
            if chunk.drafts:
                assert chunk.samples
                assert plan.tokens <= self.limits.draft_step_tokens
                if len(sequence.pages) > -(-chunk.end // PAGE_TOKENS):
                    assert not self.subject.waiting
                    assert self.allocator.free >= len(self.subject.running)
        self.plans.append(plan)

    @precondition(lambda self: self.plans)
    @rule(data=st.data(), lost=st.booleans())
    def end_a_step(self, data: st.DataObject, lost: bool) -> None:
        plan = self.plans.pop(data.draw(st.integers(0, len(self.plans) - 1)))
        if lost:
            self.subject.withdraw(chunk.sequence for chunk in plan.chunks)
            return
        self._end_well(plan, data.draw(st.integers(0, 6)), data.draw(st.integers(0, 2)))

    def _end_well(self, plan: StepPlan, kept: int = 0, token: int = 0) -> None:
        run(self.subject, plan, kept, token)
        for chunk in plan.chunks:
            if len(chunk.sequence.tokens) == self.lengths[chunk.sequence.arrival]:
                self.subject.end(chunk.sequence)

    @precondition(lambda self: any(s.state in IDLE for s in self.sequences))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        idle = [s for s in self.sequences if s.state in IDLE]
        self.subject.end(data.draw(st.sampled_from(idle)))

    @precondition(lambda self: any(s.state is State.READY for s in self.sequences))
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        self.subject.hold(data.draw(st.sampled_from([s for s in self.sequences if s.state is State.READY])))

    @precondition(lambda self: any(s.state in IDLE for s in self.sequences))
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from([s for s in self.sequences if s.state in IDLE]))
        length = data.draw(st.integers(1, len(sequence.tokens)))
        cached = data.draw(st.integers(0, length - 1))
        before = sequence.cached
        self.subject.take_back(sequence, Place(cached, length))
        assert len(sequence.tokens) == length
        assert sequence.cached <= min(cached, before)
        assert min(cached, before) - sequence.cached < PAGE_TOKENS
        assert len(sequence.pages) * PAGE_TOKENS == sequence.cached, (
            "what is behind is cleared before it is used"
        )
        assert set(sequence.fresh) <= set(sequence.pages)

    @invariant()
    def pages_are_owned_once_and_none_is_lost(self) -> None:
        owned = [page for sequence in self.sequences for page in sequence.pages]
        assert len(set(owned)) == len(owned)
        assert self.allocator.free == PAGES - len(owned)
        for sequence in self.sequences:
            if sequence.state in (State.WAITING, State.HELD, State.ENDED):
                assert not sequence.pages
                assert sequence.cached == 0
            else:
                assert sequence.cached <= len(sequence.pages) * PAGE_TOKENS

    @invariant()
    def pages_that_only_drafts_needed_are_given_back(self) -> None:
        for sequence in self.sequences:
            if sequence.state is State.READY:
                assert len(sequence.pages) <= -(-len(sequence.tokens) // PAGE_TOKENS)
                assert sequence.cached <= len(sequence.tokens) - (len(sequence.tokens) > 0)

    @invariant()
    def lists_say_what_states_say(self) -> None:
        running = [s for s in self.sequences if s.state in (State.READY, State.STEPPING)]
        assert self.subject.running == running
        assert self.subject.waiting == [s for s in self.sequences if s.state is State.WAITING]
        assert set(map(id, self.subject.held)) == {id(s) for s in self.sequences if s.state is State.HELD}
        assert len(running) <= self.limits.max_running

    def teardown(self) -> None:
        """From wherever events led, everything left comes to its end."""
        if not hasattr(self, "subject"):
            return
        while self.plans:
            self._end_well(self.plans.pop())
        for sequence in list(self.subject.held):
            self.subject.end(sequence)
        for _ in range(10_000):
            plan = self.subject.plan(admit=True)
            if plan is None:
                break
            self._end_well(plan)
        assert not self.subject.waiting
        assert not self.subject.running
        assert self.allocator.free == PAGES


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def add(subject: Scheduler, *lengths: int) -> list[Sequence]:
    sequences = [Sequence(arrival, [0] * length) for arrival, length in enumerate(lengths)]
    for sequence in sequences:
        subject.add(sequence)
    return sequences


def step(subject: Scheduler) -> dict[int, int]:
    """Runs one step, and returns how many tokens of which sequence were in it."""
    plan = subject.plan(admit=True)
    assert plan is not None
    run(subject, plan)
    return {chunk.sequence.arrival: chunk.end - chunk.start for chunk in plan.chunks}


def test_a_long_prompt_holds_up_neither_decoding_nor_a_short_prompt() -> None:
    subject, _, _ = scheduler(pages=100, max_step_tokens=10, prefill_chunk_tokens=5)
    add(subject, 1, 60, 60, 60)
    assert step(subject) == {0: 1, 1: 5, 2: 4}
    newcomer = Sequence(4, [0] * 3)
    subject.end(subject.running[-1])
    subject.add(newcomer)
    taken = [step(subject) for _ in range(2)]
    assert all(tokens[0] == 1 for tokens in taken)
    assert any(tokens.get(4) == 3 for tokens in taken)


def test_the_next_in_line_is_not_overtaken_by_one_that_would_fit() -> None:
    subject, _, _ = scheduler(pages=4)
    first, second, third = add(subject, 8, 12, 1)
    step(subject)
    assert [first.state, second.state, third.state] == [State.READY, State.WAITING, State.WAITING]
    subject.end(first)
    step(subject)
    assert second.state is State.READY


def test_the_youngest_pays_for_the_oldest_and_comes_back() -> None:
    subject, _, _ = scheduler(pages=5)
    old, young = add(subject, 8, 4)
    step(subject)
    while not subject.preemptions:
        step(subject)
    assert young.state is State.WAITING
    assert young.cached == 0
    emitted = len(young.tokens)
    subject.end(old)
    while young.remaining > 1:
        step(subject)
    assert len(young.tokens) == emitted + 1


def test_a_newcomer_that_would_soon_be_sent_back_waits() -> None:
    subject, _, allocator = scheduler(pages=5)
    first, second = add(subject, 8, 12)
    step(subject)
    assert allocator.free == 3
    assert (first.state, second.state) == (State.READY, State.WAITING)
    assert subject.preemptions == 0


def test_lanes_share_what_is_ready() -> None:
    subject, _, _ = scheduler(pages=100, lanes=2)
    add(subject, 1, 1, 1)
    plans = [subject.plan(admit=True), subject.plan(admit=True)]
    assert [len(plan.chunks) for plan in plans if plan is not None] == [2, 1]
    assert subject.plan(admit=True) is None


def test_a_page_is_cleared_by_the_step_that_first_uses_it() -> None:
    subject, _, _ = scheduler()
    (sequence,) = add(subject, 7)
    first = subject.plan(admit=True)
    assert first is not None
    assert list(first.fresh_pages) == sequence.pages
    run(subject, first)
    second = subject.plan(admit=True)
    assert second is not None
    assert second.fresh_pages == ()


def drafting(subject: Scheduler, *lengths: int, most: int = 6) -> list[Sequence]:
    """Sequences of one token again and again, whose prompts are computed and whose drafts have fared well."""
    for arrival, length in enumerate(lengths):
        tokens = [0] * length
        drafter = Drafter(tokens, longest=1000, most=most)
        for _ in range(most):
            drafter.fared(most, most)
        subject.add(Sequence(arrival, tokens, drafter=drafter))
    while any(sequence.remaining != 1 for sequence in [*subject.running, *subject.waiting]):
        plan = subject.plan(admit=True, draft=False)
        assert plan is not None
        run(subject, plan)
    return subject.running


def drafts(subject: Scheduler) -> list[int]:
    plan = subject.plan(admit=True)
    assert plan is not None
    found = [len(chunk.drafts) for chunk in plan.chunks]
    run(subject, plan)
    return found


def test_drafts_share_what_is_left_of_a_small_step() -> None:
    for streams, found in (
        (1, [6]),
        (2, [4, 3]),
        (3, [2, 2, 2]),
        (4, [2, 1, 1, 1]),
        (8, [1] + [0] * 7),
        (9, [0] * 9),
    ):
        subject, _, _ = scheduler(pages=200, max_running=11, draft_step_tokens=9, max_step_tokens=40)
        drafting(subject, *[5] * streams)
        assert drafts(subject) == found


def test_a_step_with_a_prompt_in_it_has_no_drafts() -> None:
    subject, _, _ = scheduler(pages=200, draft_step_tokens=5)
    drafting(subject, 5)
    subject.add(Sequence(1, [0] * 5))
    assert drafts(subject) == [0, 0]
    assert drafts(subject) == [2, 0]


def test_drafts_take_a_page_only_while_one_to_spare_is_left_for_each() -> None:
    for pages, found in ((3, 2), (4, 6)):
        subject, _, _ = scheduler(pages=pages, draft_step_tokens=9)
        (sequence,) = drafting(subject, 5)
        assert len(sequence.pages) == 2
        assert drafts(subject) == [found]
        assert len(sequence.pages) == 2
        assert subject.preemptions == 0


def test_drafts_take_no_page_while_anybody_waits() -> None:
    subject, _, allocator = scheduler(pages=8, draft_step_tokens=9)
    drafting(subject, 5)
    subject.add(Sequence(1, [0] * 28))
    assert drafts(subject) == [2]
    assert allocator.free == 6


def test_what_was_kept_is_cached_and_what_was_not_is_not() -> None:
    for kept in range(7):
        subject, _, _ = scheduler(pages=200, draft_step_tokens=9)
        (sequence,) = drafting(subject, 5)
        before = len(sequence.tokens)
        plan = subject.plan(admit=True)
        assert plan is not None
        run(subject, plan, kept, token=7)
        assert sequence.tokens[before:] == [0] * kept + [7]
        assert sequence.cached == before + kept


def test_a_sequence_that_drafts_harmed_is_computed_again_and_has_none() -> None:
    subject, _, allocator = scheduler(pages=20, draft_step_tokens=9)
    (sequence,) = drafting(subject, 5)
    plan = subject.plan(admit=True)
    assert plan is not None
    assert plan.chunks[0].drafts
    subject.complete(plan, [[]])
    subject.compute_again_plainly(sequence)
    assert (sequence.state, sequence.cached, allocator.free) == (State.WAITING, 0, 20)
    while sequence.remaining > 1 or sequence.state is State.WAITING:
        step(subject)
    assert drafts(subject) == [0]
