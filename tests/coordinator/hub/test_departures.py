"""Nodes whose contributors want a pause or to go: who serves meanwhile, what is said, and that nothing is lost by it."""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import Any

from folkmoot.ids import ExpertKey
from folkmoot.node_states import NodeState, Wish
from folkmoot.protos.wire_states import state_of
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_hub import RunningHub, running_hub
from folkmoot.tests.support.scripted_node import ScriptedNode

PATIENT: dict[str, Any] = {"lost_grace_s": 600.0}


def state(network: RunningHub, node: ScriptedNode) -> str:
    """Where a node stands, as the hub sees it."""
    return network.seen(node).state.value


async def until_state(network: RunningHub, node: ScriptedNode, wanted: str) -> None:
    """Waits until a node stands there, and has been told so."""
    await network.until(lambda: state(network, node) == wanted, 60.0)
    await network.until(lambda: node.told and state_of(node.told[-1].state) == wanted, 60.0)


async def test_each_change_is_told_to_the_node_and_remembered_with_its_reason() -> None:
    async with running_hub() as network:
        [node] = await network.join_ready(None)
        await until_state(network, node, "ready")
        states = [told for told, _ in groupby(state_of(change.state) for change in node.told)]
        assert states == [NodeState.JOINING, NodeState.DOWNLOADING, NodeState.READY]
        assert "experts to get" in node.told[1].reason
        member = network.hub._roster.find(node.node)
        assert member is not None
        history = member.life.history
        assert [state for state, _ in groupby(change.state for change in history)] == [
            NodeState.LOST,
            *states,
        ]
        await node.leave()
        await network.until(lambda: state(network, node) == "lost", 60.0)
        assert member.life.history[-1].reason == network.seen(node).reason != ""


async def test_whoever_watches_hears_of_each_change() -> None:
    async with running_hub() as network:
        heard: list[tuple[str, NodeState]] = []
        network.hub.subscribe(lambda node, change: heard.append((node, change.state)))
        [node] = await network.join_ready(None)
        assert [state for who, state in heard if who == node.node][-1] is NodeState.READY


async def test_a_node_that_pauses_gets_no_frame_keeps_what_it_holds_and_resumes_at_once() -> None:
    async with running_hub(**PATIENT) as network:
        resting, working = await network.join_ready(None, None)
        held, epoch = set(resting.ready), resting.epoch
        await resting.wish(Wish.PAUSE, "a film is on")
        await until_state(network, resting, "paused")
        assert network.seen(resting).reason == "a film is on"
        resting.frames.clear()
        for seed in range(3):
            await network.check(0, seed=seed)
            await network.check(1, seed=seed)
        assert not resting.frames and working.frames
        assert (set(resting.ready), resting.epoch) == (held, epoch)
        await resting.wish(Wish.SERVE)
        await until_state(network, resting, "ready")
        await working.wish(Wish.PAUSE)
        await until_state(network, working, "paused")
        await network.check(0)
        assert resting.frames and set(resting.ready) == held


async def test_a_pause_that_loses_coverage_is_said_and_calls_wait_for_the_node() -> None:
    async with running_hub(dispatch={"expert_wait_s": 60.0}, **PATIENT) as network:
        [alone] = await network.join_ready(None)
        await alone.wish(Wish.PAUSE, "sleep")
        await until_state(network, alone, "paused")
        assert "8 experts have no other host" in network.seen(alone).reason
        assert not network.hub.covered()
        waiting = asyncio.create_task(network.check(0))
        await alone.wish(Wish.SERVE)
        assert (await waiting).nodes == {alone.node}
        await until_state(network, alone, "ready")


async def test_what_a_pause_leaves_without_a_host_goes_to_others_at_once() -> None:
    async with running_hub(replicas=1, **PATIENT) as network:
        resting, working = await network.join_ready(None, None)
        await resting.wish(Wish.PAUSE)
        await network.until(lambda: network.hub.covered() and len(working.ready) == 8, 60.0)
        await network.until(lambda: "no other host" not in network.seen(resting).reason, 60.0)
        assert state(network, resting) == "paused"
        assert (await network.check(0)).nodes == {working.node}


async def test_what_is_paused_for_long_gets_a_second_host_elsewhere() -> None:
    async with running_hub(lost_grace_s=0.1) as network:
        resting, *_ = await network.join_ready(None, None, None)
        await resting.wish(Wish.PAUSE)
        await network.until(lambda: network.hub.directory.coverage.replicated == 8, 60.0)


async def test_a_node_that_drains_serves_until_others_have_what_it_holds_and_is_then_let_go() -> None:
    async with running_hub(replicas=1, **PATIENT) as network:
        leaver, stayer = await network.join_ready(None, None)
        await network.until(lambda: len(leaver.ready) == len(stayer.ready) == 4, 60.0)
        stayer.reports_ready = False
        had = set(leaver.ready)
        await leaver.wish(Wish.DRAIN, "moving house")
        await until_state(network, leaver, "draining")
        await network.until(lambda: had < set(stayer.assigned), 60.0)
        assert network.hub.covered() and not leaver.may_go
        await network.check(0)
        await network.check(1)
        assert set(leaver.ready) == had
        stayer.reports_ready, stayer.ready = True, set(stayer.assigned)
        await stayer.report()
        await network.until(lambda: leaver.may_go, 60.0)
        assert not leaver.ready and network.hub.covered()
        leaver.frames.clear()
        await network.check(0)
        assert not leaver.frames
        assert "it may go" in network.seen(leaver).reason


async def test_coverage_never_drops_while_every_node_but_one_drains() -> None:
    async with running_hub(MemoryExperts(experts=6), **PATIENT) as network:
        *leavers, stayer = await network.join_ready(None, None, None)
        uncovered: list[int] = []
        stopped = asyncio.Event()

        async def work() -> None:
            while not stopped.is_set():
                await network.check(0)
                uncovered.append(not network.hub.covered())

        working = asyncio.create_task(work())
        for leaver in leavers:
            await leaver.wish(Wish.DRAIN)
        await network.until(lambda: all(leaver.may_go for leaver in leavers), 60.0)
        for leaver in leavers:
            await leaver.leave()
        stopped.set()
        await working
        assert not any(uncovered) and network.hub.covered()
        assert len(stayer.ready) == 12


async def test_a_drain_without_room_elsewhere_says_so_serves_on_and_goes_at_the_second_word() -> None:
    async with running_hub(**PATIENT) as network:
        [alone] = await network.join_ready(None)
        await alone.wish(Wish.DRAIN, "sold")
        await network.until(lambda: "no room for 8 of its experts" in network.seen(alone).reason, 60.0)
        assert state(network, alone) == "draining" and not alone.may_go
        assert (await network.check(0)).nodes == {alone.node}
        await alone.wish(Wish.DRAIN, "sold", at_once=True)
        await network.until(lambda: alone.may_go, 60.0)
        assert "8 experts are left without a host" in network.seen(alone).reason


async def test_a_drain_waits_for_a_node_with_room_to_come() -> None:
    async with running_hub(**PATIENT) as network:
        [leaver] = await network.join_ready(None)
        await leaver.wish(Wish.DRAIN)
        await network.until(lambda: "no room" in network.seen(leaver).reason, 60.0)
        await network.join()
        await network.until(lambda: leaver.may_go, 60.0)
        assert network.hub.covered()


async def test_a_drain_that_is_taken_back_leaves_all_as_it_was() -> None:
    async with running_hub(**PATIENT) as network:
        [node] = await network.join_ready(None)
        held = set(node.ready)
        await node.wish(Wish.DRAIN)
        await until_state(network, node, "draining")
        await node.wish(Wish.SERVE)
        await until_state(network, node, "ready")
        await network.settled()
        assert set(node.ready) == held and not node.may_go
        assert network.seen(node).reason == ""


async def test_a_node_that_holds_nothing_may_go_at_once() -> None:
    async with running_hub(**PATIENT) as network:
        await network.join_ready(None)
        idle = await network.join(memory_bytes=1)
        await idle.wish(Wish.DRAIN)
        await network.until(lambda: idle.may_go, 60.0)


async def test_a_node_that_comes_back_serves_unless_it_says_again_that_it_will_not() -> None:
    async with running_hub(**PATIENT) as network:
        resting, _ = await network.join_ready(None, None)
        await resting.wish(Wish.PAUSE)
        await until_state(network, resting, "paused")
        await resting.leave()
        await network.until(lambda: state(network, resting) == "lost", 60.0)
        again = await network.join(identity=resting.identity)
        await until_state(network, again, "ready")
        assert {ExpertKey(key.layer, key.expert) for key in again.ready} == set(resting.ready)
