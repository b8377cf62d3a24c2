"""Second frames: never more than their share, only where another replica can be expected to be faster; a race has one winner, and
whoever loses it is waited for by nobody. Over real links: a node that stalls holds no answer up, answers stay those of one machine, and
both answers are compared in the end."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.coordinator.dispatch.choice import HostEstimate
from folkmoot.coordinator.dispatch.counters import DispatchCounters
from folkmoot.coordinator.dispatch.directory import Directory
from folkmoot.coordinator.dispatch.flight import Flight
from folkmoot.coordinator.dispatch.hedging import (
    FEWEST,
    FORGOTTEN_AFTER,
    MOST_SECONDS,
    WINDOW,
    Hedging,
    UsualTimes,
)
from folkmoot.coordinator.dispatch.host import SentFrame
from folkmoot.coordinator.dispatch.network_experts import DispatchSettings, NetworkExperts
from folkmoot.coordinator.dispatch.pairs import Pairs
from folkmoot.coordinator.dispatch.part import Part, Race
from folkmoot.coordinator.dispatch.plan import Plan, PlannedFrame
from folkmoot.coordinator.dispatch.verified_result import Rivals, VerifiedResult
from folkmoot.coordinator.self_host.own_host import OwnHost
from folkmoot.errors import UsageError
from folkmoot.ids import ExpertKey
from folkmoot.models.pool import StepTally
from folkmoot.tests.support.asked_node import AskedNode
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_hub import RunningHub, running_hub
from folkmoot.tests.support.scripted_node import Fault, ScriptedNode

MODEL = MemoryExperts()
HOST = AskedNode(MODEL, bytes(32))
PAIRS = Pairs.of(np.zeros((2, 1), np.int64), np.ones((2, 1), np.float32))
FAST = HostEstimate(0.001, 1e-12)
EAGER = {"hedge_share": 0.5, "hedge_least_s": 0.5}


def frames(count: int, work: float = 100.0) -> Plan:
    return Plan([PlannedFrame(0, PAIRS, np.arange(2), PAIRS, work) for _ in range(count)], None)


def part(order: int) -> Part:
    planned = frames(1).frames[0]
    return Part((order,), HOST, planned, torch.zeros(2, 16), 1000, 0.0)


def test_what_is_usual_is_a_high_quantile_of_recent_times_of_such_frames() -> None:
    times = UsualTimes(0.9)
    assert times.usual_s(1000) == inf
    for number in range(2 * FEWEST):
        times.took(1000, float(number))
    assert FEWEST < times.usual_s(1000) < 2 * FEWEST
    assert times.usual_s(1020) == times.usual_s(1000)
    assert times.usual_s(5000) == inf, "larger frames take their own time"
    for _ in range(2 * WINDOW):
        times.took(1000, 0.5)
    assert times.usual_s(1000) == 0.5, "what was long ago is forgotten"


def test_patience_is_bounded() -> None:
    hedging = Hedging(0.05, 0.98, 0.05)
    assert hedging.patience_s(HOST, 100.0, 8.0) == 4.0, "half the deadline while nothing is known"
    for elapsed_s, patience_s in ((0.001, 0.05), (0.3, 0.3), (100.0, 4.0)):
        for _ in range(2 * WINDOW):
            hedging.took(HOST, 100.0, elapsed_s)
        assert hedging.patience_s(HOST, 100.0, 8.0) == patience_s


@given(st.lists(st.tuples(st.integers(1, 4), st.floats(1, 1e4), st.booleans()), max_size=300))
def test_second_frames_are_never_more_than_their_share(calls: list[tuple[int, float, bool]]) -> None:
    hedging = Hedging(0.05, 0.98, 0.05)
    sent = sent_work = seconds = second_work = 0.0
    for count, work, slow in calls:
        hedging.sent(count, count * work)
        sent, sent_work = sent + count, sent_work + count * work
        if slow and hedging.claim(frames(count, work), [FAST], 10.0):
            seconds, second_work = seconds + count, second_work + count * work
        assert sent < FORGOTTEN_AFTER
        assert seconds <= 0.05 * sent and second_work <= 0.05 * sent_work * (1 + 1e-9)


def test_a_long_quiet_time_does_not_save_up_a_flood() -> None:
    hedging = Hedging(0.05, 0.98, 0.05)
    for _ in range(100_000):
        hedging.sent(1, 100.0)
    burst = 0
    while hedging.claim(frames(1), [FAST], 10.0):
        burst += 1
    assert 0 < burst <= 0.05 * FORGOTTEN_AFTER


@pytest.mark.parametrize(
    ("planned", "estimate", "waited_s"),
    [
        (frames(1), FAST, 0.0009),
        (frames(1), HostEstimate(1000.0, 1e-12), 1.0),
        (frames(MOST_SECONDS + 1), FAST, 1.0),
        (frames(0), FAST, 1.0),
        (Plan(frames(1).frames, PAIRS), FAST, 1.0),
    ],
    ids=["would be slower", "is suspected", "too many", "nobody else", "some have nobody else"],
)
def test_where_nobody_can_help_nothing_is_sent(
    planned: Plan, estimate: HostEstimate, waited_s: float
) -> None:
    hedging = Hedging(0.5, 0.98, 0.05)
    hedging.sent(1000, 1e9)
    assert not hedging.claim(planned, [estimate], waited_s)
    assert hedging.claim(frames(1), [FAST], 1.0)


@given(st.integers(1, 4), st.randoms(use_true_random=False), st.lists(st.booleans(), min_size=5, max_size=5))
def test_a_race_has_at_most_one_winner_and_is_planned_again_only_when_both_failed(
    count: int, random: object, answers: list[bool]
) -> None:
    race = Race(part(0), [part(1 + number) for number in range(count)])
    order = list(race.parts)
    random.shuffle(order)  # type: ignore[attr-defined]
    decided, orphaned, answered = [], [], set()
    for one, answer in zip(order, answers, strict=False):
        waited_for = race.needs(one)
        if answer:
            answered.add(one)
            decided.append(race.answered(one))
            assert not decided[-1] or waited_for
        else:
            orphaned.append(race.failed(one))
    sides = [{race.first}, set(race.seconds)]
    whole = [side for side in sides if side <= answered]
    assert sum(decided) == (1 if whole else 0)
    assert (set(race.winners) in whole) if whole else not race.winners
    assert any(orphaned) == (not whole)
    assert sum(orphaned) <= 1 or not whole
    assert race.complete == (len(whole) == 2)
    assert set(race.unused()) <= answered - set(race.winners)
    assert not race.unused(), "each is named once"


@pytest.mark.parametrize(
    "wrong", [{"hedge_share": -0.1}, {"hedge_share": 0.9}, {"hedge_quantile": 1.0}, {"hedge_least_s": 0.0}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        DispatchSettings(**wrong)  # type: ignore[arg-type]


def know(network: RunningHub) -> None:
    """As if both nodes had long answered frames of every size at once, and many frames had been sent."""
    hedging = network.pool.hedging
    hedging.sent(1000, 1e12)
    for host in network.hub.directory.layer(0).hosts:
        assert not isinstance(host, OwnHost)
        for size in range(40):
            for _ in range(2 * FEWEST):
                hedging.took(host, 1.5 * 2**size, 0.001)


@asynccontextmanager
async def stalled() -> AsyncIterator[tuple[RunningHub, ScriptedNode, ScriptedNode, asyncio.Task[StepTally]]]:
    """A network of two nodes, of which the one that a call has asked first does not answer, nor yet the other."""
    patient = EAGER | {"expert_wait_s": 60.0}
    async with running_hub(dispatch=patient, frame_deadline_s=60.0, silence_s=120.0) as network:
        nodes = await network.join_ready(None, None)
        know(network)
        for node in nodes:
            node.paused.clear()
        call = asyncio.create_task(network.check(0, seed=500))
        await network.until(lambda: any(node.frames for node in nodes), limit_s=60)
        first, second = sorted(nodes, key=lambda node: -len(node.frames))
        yield network, first, second, call


async def test_a_node_that_stalls_holds_no_answer_up_and_is_compared_later() -> None:
    async with stalled() as (network, slow, other, call):
        rivals: list[Rivals] = []
        seen: list[VerifiedResult] = []
        network.pool.rivals_watcher, network.pool.watcher = rivals.append, seen.append
        other.paused.set()
        tally = await call
        assert tally.nodes == {other.node} and tally.retries == 0
        totals = network.counters.totals()
        assert (totals.hedges, totals.hedges_won, totals.retries) == (1, 1, 0)
        assert not rivals, "the other answer is not there yet"
        slow.paused.set()
        await network.until(lambda: rivals, limit_s=60)
        (found,) = rivals
        assert found.first[0].host.node == slow.node and found.seconds[0][0].host.node == other.node
        assert len(found.first[0].pairs) == sum(len(result.pairs) for result, _ in found.seconds)
        assert found.first[1].tolist() == found.seconds[0][1].tolist()
        (lost,) = (result for result in seen if result.host.node == slow.node)
        assert (lost.step, lost.cover) == (0, None), "it is credited and may be audited; no step consumed it"
        assert network.counters.totals().hedges_compared == 1


async def test_when_the_second_fails_too_the_first_counts() -> None:
    async with stalled() as (network, slow, other, call):
        other.fault = Fault.OVERLOADED
        other.paused.set()
        await network.until(lambda: network.counters.totals().failed.get("overloaded"), limit_s=60)
        slow.paused.set()
        assert (await call).nodes == {slow.node}
        assert network.counters.totals().hedges_won == 0


async def test_when_the_first_fails_the_second_is_waited_for() -> None:
    async with stalled() as (network, slow, other, call):
        await network.until(lambda: network.counters.totals().hedges, limit_s=60)
        await slow.leave()
        await network.until(lambda: network.counters.totals().failed.get("link_lost"), limit_s=60)
        other.paused.set()
        tally = await call
        assert tally.nodes == {other.node} and tally.retries == 0, "what is out already is not sent again"


async def test_a_second_answer_that_was_forged_is_rejected_and_not_compared() -> None:
    async with stalled() as (network, slow, other, call):
        other.paused.set()
        await call
        slow.fault = Fault.OTHER_KEY
        slow.paused.set()
        await network.until(lambda: network.seen(slow).results_rejected, limit_s=60)
        assert network.counters.totals().rejected == {"signature_wrong": 1}
        assert network.counters.totals().hedges_compared == 0


class DirectLoop:
    """An event loop that does at once what it is given."""

    def call_soon_threadsafe(self, call: Callable[..., None], *arguments: Any) -> None:
        call(*arguments)


class Slowing(AskedNode):
    """A node that keeps its frames while it stalls, and of which some time is expected.

    Attributes:
        stalls: Whether it keeps them.
        start_s: When it could begin.
        kept: What it was sent meanwhile.
        then: Called after each answer.
    """

    stalls = False
    start_s = 0.001

    def __init__(self, model: MemoryExperts) -> None:
        super().__init__(model, bytes(32))
        self.kept: list[SentFrame] = []
        self.then: Callable[[], object] = lambda: None

    def estimate(self) -> HostEstimate:
        """As it was set."""
        return HostEstimate(self.start_s, 1e-10)

    def send(self, frame: SentFrame) -> None:
        """Answers at once, or keeps it."""
        if self.stalls:
            self.kept.append(frame)
        else:
            super().send(frame)
            self.frames.clear()
            self.then()

    def go_on(self) -> None:
        """Answers what it kept."""
        self.stalls = False
        while self.kept:
            self.send(self.kept.pop())


class Neighbours:
    """Four experts, each on a node of its own, and a node that has all but can seldom be expected to be of use.

    Attributes:
        nodes: The four.
        spare: The other.
    """

    def __init__(self, share: float = 0.5) -> None:
        model = MemoryExperts(hidden=64, intermediate=48)
        directory = Directory(model.manifest)
        self.counters = DispatchCounters()
        self.network = NetworkExperts(
            DirectLoop(),  # type: ignore[arg-type]
            directory,
            model.manifest,
            bytes(32),
            self.counters,
            DispatchSettings(hedge_share=share, hedge_least_s=0.02),
        )
        self.nodes = [Slowing(model) for _ in range(4)]
        for expert, node in enumerate(self.nodes):
            directory.update(node, frozenset({ExpertKey(0, expert)}))
        self.spare = Slowing(model)
        self.spare.start_s = 1e6
        directory.update(self.spare, frozenset(model.manifest.experts))
        self.network.hedging.sent(1000, 1e12)
        for node in self.nodes:
            for size in range(40):
                for _ in range(2 * FEWEST):
                    self.network.hedging.took(node, 1.5 * 2**size, 0.001)
        self._call = model.routing(16, top_k=4)

    def call(self) -> Flight:
        """The same call each time, of a frame to each of the four."""
        return self.network.submit(0, *self._call, StepTally())


def test_without_a_share_no_frame_is_ever_too_slow() -> None:
    for share, patience_s in ((0.0, inf), (0.5, 0.02)):
        here = Neighbours(share)
        for node in here.nodes:
            node.stalls = True
        flight = here.call()
        hedged = [part.hedge_at_s - part.sent_s for part in flight._parts.values()]
        assert hedged == pytest.approx([patience_s] * 4)
        for node in here.nodes:
            node.go_on()
        assert len(flight.result()) == 16


@pytest.mark.parametrize("slow", range(4))
def test_the_sum_has_the_same_bits_whoever_answers_first(slow: int) -> None:
    here = Neighbours()
    expected = here.call().result()
    assert here.counters.totals().frames == 4, "or there is no order to speak of"
    here.nodes[slow].stalls = True
    flight = here.call()
    here.spare.start_s = 0.001
    assert torch.equal(flight.result(), expected)
    assert here.counters.totals().hedges_won == 1


def test_who_cannot_help_yet_is_thought_of_again() -> None:
    here = Neighbours()
    here.nodes[0].stalls = True
    here.spare.start_s = 0.15  # several looks
    assert len(here.call().result()) == 16
    assert here.counters.totals().hedges_won == 1


@pytest.mark.parametrize("late", [False, True], ids=["while the call goes on", "after the call"])
def test_a_race_that_is_over_holds_nothing(late: bool) -> None:
    here = Neighbours()
    gc.collect()
    gc.disable()
    try:
        slow, slower = here.nodes[1:3]
        slow.stalls, slower.stalls = True, not late
        flight = here.call()
        here.spare.start_s = 0.001
        if not late:
            here.spare.then, slow.then = slow.go_on, slower.go_on
        flight.result()
        gone = weakref.ref(flight)
        del flight
        if late:
            assert gone() is not None, "its answer is out"
            slow.go_on()
        ends_s = time.monotonic() + 60
        while gone() is not None:
            assert time.monotonic() < ends_s, "it waits for the garbage collector"
            time.sleep(0.005)
    finally:
        gc.enable()


def test_a_race_whose_parts_have_all_ended_lets_them_go() -> None:
    for ends in ("answered", "failed"):
        race = Race(part(0), [part(1), part(2)])
        for one in race.parts:
            one.race = race
        race.answered(race.first)
        race.failed(race.seconds[0])
        assert race.first.race is race
        getattr(race, ends)(race.seconds[1])
        assert [one.race for one in race.parts] == [None] * 3
