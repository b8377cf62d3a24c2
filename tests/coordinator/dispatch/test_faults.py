"""Every way in which a node can be bad: its result is rejected for its own reason, another replica answers, the answer is
that of one machine, and the bad node loses its link. Real gRPC, TLS and signatures; only the node is scripted."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

import pytest
import torch

from folkmoot.coordinator.dispatch.flight import ExpertsUnavailableError, NotFiniteActivationsError
from folkmoot.coordinator.dispatch.verified_result import VerifiedResult
from folkmoot.models.pool import StepTally
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_hub import RunningHub, running_hub
from folkmoot.tests.support.scripted_node import Fault, ScriptedNode
from folkmoot.trust.keys import Identity

REJECTED = {
    Fault.OTHER_KEY: "signature_wrong",
    Fault.OTHER_LAYER: "signature_wrong",
    Fault.CHANGED_AFTER_SIGNING: "signature_wrong",
    Fault.NO_SIGNATURE: "signature_missing",
    Fault.NOT_A_NUMBER: "not_finite",
    Fault.INFINITE: "not_finite",
    Fault.OVERFLOWING: "not_finite",
    Fault.WRONG_SHAPE: "shape",
    Fault.HUGE_SHAPE: "shape",
    Fault.WRONG_RANK: "rank",
    Fault.WRONG_DTYPE: "dtype",
    Fault.HUGE_LENGTH: "length",
    Fault.SHORT_DATA: "data",
}
PATIENT = {"expert_wait_s": 10.0}
FAILED = {
    Fault.SILENT: "timed_out",
    Fault.OVERLOADED: "overloaded",
    Fault.NOT_HELD: "not_held",
    Fault.HANGS_UP: "link_lost",
    Fault.UNREADABLE: "link_lost",
    Fault.UNASKED: "link_lost",
}


@dataclass
class Meeting:
    """A bad node that was asked while it was the only one, the good one that came then, and the call's accounting."""

    bad: ScriptedNode
    good: ScriptedNode
    tally: StepTally


async def meet(network: RunningHub, fault: Fault | None, *, layer: int = 0, paused: bool = False) -> Meeting:
    """Lets a call meet the bad node first and a good one after; the answer must be right."""
    (bad,) = await network.join_ready(fault)
    if paused:
        bad.paused.clear()
    call = asyncio.create_task(network.check(layer))
    await network.until(lambda: bad.frames)
    good = await network.join()
    tally = await call
    assert tally.retries >= 1
    assert tally.nodes == {good.node}
    return Meeting(bad, good, tally)


@pytest.mark.parametrize("fault", REJECTED, ids=lambda fault: fault.name)
async def test_a_bad_result_is_rejected_for_its_reason(
    fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with running_hub(dispatch=PATIENT) as network:
        met = await meet(network, fault)
        bad = met.bad
        assert met.tally.results_rejected == 1
        assert network.counters.totals().rejected == {REJECTED[fault]: 1}
        await network.until(lambda: network.seen(bad).state == "quarantined")
        assert REJECTED[fault] in network.seen(bad).reason
        assert network.seen(bad).results_rejected == 1
        assert any(
            bad.node[:12] in record.getMessage() and REJECTED[fault] in record.getMessage()
            for record in caplog.records
        )
        await network.until(lambda: bad.closing is not None)
        assert bad.closing is not None
        assert bad.closing.retry
        assert (await network.check(1)).nodes == {met.good.node}, "it is not asked again"


async def test_an_old_answer_under_a_new_number_is_rejected() -> None:
    async with running_hub(dispatch=PATIENT) as network:
        (bad,) = await network.join_ready(Fault.REPLAY)
        assert (await network.check(0, seed=5)).results_verified == 1, "the first answer is good"
        call = asyncio.create_task(network.check(1))
        await network.until(lambda: len(bad.frames) == 2)
        good = await network.join()
        tally = await call
        assert tally.results_rejected == 1
        assert tally.nodes == {good.node}
        assert network.counters.totals().rejected == {"signature_wrong": 1}


@pytest.mark.parametrize("fault", FAILED, ids=lambda fault: fault.name)
async def test_no_answer_goes_to_another_replica(fault: Fault) -> None:
    async with running_hub(frame_deadline_s=0.2, dispatch=PATIENT) as network:
        met = await meet(network, fault)
        assert met.tally.results_rejected == 0
        assert set(network.counters.totals().failed) == {FAILED[fault]}


async def test_an_answer_that_was_never_asked_for_costs_the_link() -> None:
    async with running_hub(dispatch=PATIENT) as network:
        met = await meet(network, Fault.UNASKED)
        assert network.counters.totals().rejected == {"unasked": 1}
        assert network.seen(met.bad).state == "quarantined"


async def test_a_second_answer_to_a_frame_is_ignored() -> None:
    async with running_hub() as network:
        await network.join_ready(Fault.TWICE, Fault.TWICE)
        tallies = [await network.check(seed % 2, seed=seed) for seed in range(6)]
        assert sum(tally.results_verified for tally in tallies) == network.counters.totals().results_verified
        assert not any(tally.retries for tally in tallies)
        await network.until(lambda: network.counters.totals().rejected.get("replayed", 0) >= 5)
        assert set(network.counters.totals().rejected) == {"replayed"}
        assert {node.state for node in network.hub.snapshot().nodes} == {"ready"}


async def test_a_late_answer_is_ignored() -> None:
    async with running_hub(frame_deadline_s=0.1, misses_before_cut=10, dispatch=PATIENT) as network:
        slow = (await meet(network, None, paused=True)).bad
        slow.paused.set()
        await network.until(lambda: network.counters.totals().rejected == {"late": 1})
        assert network.seen(slow).state == "ready"


async def test_a_node_that_misses_deadlines_is_asked_last_and_then_cut() -> None:
    async with running_hub(frame_deadline_s=0.05, misses_before_cut=2) as network:
        (silent,) = await network.join_ready(Fault.SILENT)
        with pytest.raises(ExpertsUnavailableError):
            await network.call(0, network.model.routing(1))
        await network.join_ready(None)
        assert not (await network.check(0)).retries, "a suspect is asked only when nobody else is there"
        assert silent.closing is None
        await network.nodes[1].leave()
        await network.until(lambda: network.seen(network.nodes[1]).state == "lost")
        with pytest.raises(ExpertsUnavailableError):
            await network.call(0, network.model.routing(1))
        await network.until(lambda: silent.closing is not None)
        assert network.seen(silent).state == "lost"
        assert "deadlines" in network.seen(silent).reason


@pytest.mark.parametrize("fault", [Fault.SILENT, Fault.OVERLOADED, Fault.OTHER_KEY, Fault.NOT_HELD])
async def test_when_all_are_bad_the_call_ends_within_its_limit(fault: Fault) -> None:
    async with running_hub(frame_deadline_s=0.1, dispatch={"expert_wait_s": 0.3}) as network:
        await network.join_ready(fault, fault)
        began = time.monotonic()
        with pytest.raises(ExpertsUnavailableError, match="layer 0") as caught:
            await network.call(0, network.model.routing(2))
        assert time.monotonic() - began < 3.0
        assert caught.value.advice


async def test_a_call_waits_for_a_node_to_come() -> None:
    async with running_hub(dispatch={"expert_wait_s": 10.0}) as network:
        call = asyncio.create_task(network.check(0))
        await asyncio.sleep(0)
        assert not call.done()
        await network.join()
        assert (await call).retries == 0


async def test_a_node_that_is_killed_in_flight_is_replaced_by_the_other() -> None:
    async with running_hub() as network:
        nodes = await network.join_ready(None, None)
        for node in nodes:
            node.paused.clear()
        call = asyncio.create_task(network.check(0, rows=40))
        await network.until(lambda: any(node.frames for node in nodes))
        killed = next(node for node in nodes if node.frames)
        other = next(node for node in nodes if node is not killed)
        await killed.leave()
        other.paused.set()
        tally = await call
        assert tally.retries >= 1
        assert tally.nodes == {other.node}
        assert network.seen(killed).state == "lost"


async def test_the_only_holder_is_killed_and_comes_back() -> None:
    async with running_hub(dispatch={"expert_wait_s": 10.0}) as network:
        (only,) = await network.join_ready(None)
        only.paused.clear()
        call = asyncio.create_task(network.check(0))
        await network.until(lambda: only.frames)
        await only.leave()
        await network.until(lambda: not network.hub.covered())
        await network.join(identity=only.identity)
        tally = await call
        assert tally.nodes == {only.node}
        assert tally.retries == 1


async def test_two_lanes_at_once_get_their_own_answers() -> None:
    async with running_hub(MemoryExperts(experts=8)) as network:
        await network.join_ready(None, None, None)
        lanes = [
            asyncio.create_task(network.check(seed % 2, rows=1 + seed % 5, seed=seed)) for seed in range(24)
        ]
        tallies = await asyncio.gather(*lanes)
        assert sum(tally.results_verified for tally in tallies) == network.counters.totals().results_verified
        assert network.counters.totals().rejected == {}
        assert sum(node.results_verified for node in network.hub.snapshot().nodes) == sum(
            tally.results_verified for tally in tallies
        )


async def test_rows_beyond_a_frame_and_beyond_the_nodes_room_are_sent_in_turn() -> None:
    async with running_hub(max_rows_in_flight=1024, dispatch={"max_rows_per_frame": 500}) as network:
        (node,) = await network.join_ready(None)
        node.paused.clear()
        call = asyncio.create_task(network.check(0, rows=2600))
        await network.until(lambda: node.frames)
        assert network.seen(node).rows_in_flight <= 1024
        node.paused.set()
        assert (await call).results_verified == 6
        assert max(frame.hidden.shape[0] for frame in node.frames) <= 500
        assert [frame.sequence for frame in node.frames] == list(range(1, 7))


async def test_the_caller_may_write_to_its_tensors_at_once() -> None:
    async with running_hub() as network:
        (node,) = await network.join_ready(None)
        node.paused.clear()
        hidden, ids, gates = network.model.routing(3)
        wanted = network.model.answer(0, hidden, ids, gates)
        flight = network.pool.submit(0, hidden, ids, gates, StepTally())
        hidden.zero_(), gates.zero_(), ids.zero_()
        node.paused.set()
        torch.testing.assert_close(await asyncio.to_thread(flight.result), wanted, rtol=1e-5, atol=1e-4)


async def test_no_rows_and_rows_that_are_not_finite() -> None:
    async with running_hub() as network:
        await network.join_ready(None)
        hidden, ids, gates = network.model.routing(2)
        empty = await network.call(0, (hidden[:0], ids[:0], gates[:0]))
        assert empty.shape == (0, network.model.manifest.hidden)
        for number in (torch.nan, torch.inf, -1e13):
            hidden[1, 3] = number
            with pytest.raises(NotFiniteActivationsError):
                await network.call(0, (hidden, ids, gates))
        assert network.counters.totals().rejected == {}, "no node is blamed for the trunk's numbers"


async def test_stopping_the_hub_ends_waiting_calls() -> None:
    async with running_hub(dispatch={"expert_wait_s": 60.0}) as network:
        (node,) = await network.join_ready(Fault.SILENT)
        call = asyncio.create_task(network.call(0, network.model.routing(1)))
        await network.until(lambda: node.frames)
        await network.hub.stop()
        with pytest.raises(ExpertsUnavailableError):
            async with asyncio.timeout(5):
                await call


@pytest.mark.parametrize(
    "fault", [Fault.NOT_A_NUMBER, Fault.INFINITE, Fault.OVERFLOWING], ids=lambda fault: fault.name
)
async def test_what_a_node_signed_and_nothing_can_be_computed_with_is_shown_to_whoever_judges(
    fault: Fault,
) -> None:
    async with running_hub(dispatch=PATIENT) as network:
        shown: list[VerifiedResult] = []
        network.pool.unusable_watcher = shown.append
        met = await meet(network, fault)
        (result,) = shown
        assert result.host.node == met.bad.node
        result.host.key.verify(result.result.signature, result.statement.encode())
        assert result.statement.task == result.task.digest()


async def test_what_nobody_signed_is_shown_to_nobody() -> None:
    async with running_hub(dispatch=PATIENT) as network:
        shown: list[VerifiedResult] = []
        network.pool.unusable_watcher = shown.append
        (bad,) = await network.join_ready(Fault.NOT_A_NUMBER)
        bad.identity = Identity.generate()
        call = asyncio.create_task(network.check(0))
        await network.until(lambda: network.seen(bad).results_rejected)
        good = await network.join()
        assert (await call).nodes == {good.node}
        assert network.counters.totals().rejected == {"not_finite": 1}
        assert shown == []
