"""What a contributor wants of a node: each link is told, and whoever waits for a drain is told how it ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from folkmoot.node.remote import NodeRefusedError
from folkmoot.node.wishes import DrainEnd
from folkmoot.node_states import NodeState, Wish
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.protos.wire_states import wire_state, wish_of
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.running_node import running_node, until
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator
from folkmoot.tests.support.scripted_link import ScriptedLink


def tell(link: ScriptedLink, state: NodeState, reason: str = "", *, may_go: bool = False) -> None:
    """The coordinator says where the node is."""
    change = link_pb2.StateChange(state=wire_state(state), reason=reason, may_go=may_go)
    link.send(link_pb2.CoordinatorMessage(state_change=change))


def wishes(link: ScriptedLink) -> list[tuple[Wish | None, str, bool]]:
    """What the coordinator was told on a link."""
    return [(wish_of(wish.kind), wish.reason, wish.at_once) for wish in link.wishes]


async def test_what_the_coordinator_says_last_is_where_the_node_is(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        link = await coordinator.link()
        tell(link, NodeState.JOINING, "attached")
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        tell(link, NodeState.PROBING, "what it\n holds is tried")
        await until(lambda: node.state is NodeState.PROBING)
        status = node.status()
        assert status.reason == "what it holds is tried"
        assert status.connected and status.experts_held == status.experts_assigned == len(experts.keys)
        assert status.bytes_held == status.bytes_fetched > 0
        tell(link, NodeState.READY)
        await until(lambda: node.state is NodeState.READY)
        tell(link, NodeState.READY)
        await link.ping(1)
    assert caplog.text.count("probing: what it holds is tried") == 1
    assert sum(record.getMessage() == "ready" for record in caplog.records) == 1


async def test_what_only_a_newer_coordinator_says_is_passed_over_and_what_cannot_be_ends_the_link(
    coordinator: ScriptedCoordinator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        link = await coordinator.link()
        newer = link_pb2.StateChange()
        newer.ParseFromString(b"\x08\x63")
        link.send(link_pb2.CoordinatorMessage(state_change=newer))
        await link.ping(1)
        tell(link, NodeState.READY)
        tell(link, NodeState.JOINING)
        await coordinator.link()
        assert "says what cannot be: a node that is ready cannot become joining" in caplog.text
        assert node.state is not NodeState.READY


async def test_each_link_is_told_of_a_pause_and_none_of_what_goes_without_saying(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        link = await coordinator.link()
        await link.ping(1)
        assert not link.wishes
        node.pause("a film is on")
        await link.until(lambda: bool(link.wishes))
        assert node.status().wish == "pause"
        await coordinator.stop()
        await coordinator.start()
        again = await coordinator.link()
        await again.until(lambda: bool(again.wishes))
        node.resume()
        await again.until(lambda: len(again.wishes) == 2)
        assert wishes(link) == [(Wish.PAUSE, "a film is on", False)]
        assert wishes(again) == [(Wish.PAUSE, "a film is on", False), (Wish.SERVE, "", False)]


async def test_a_drain_ends_when_the_coordinator_lets_the_node_go(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        link = await coordinator.link()
        draining = asyncio.create_task(node.drain("moving house"))
        await link.until(lambda: bool(link.wishes))
        tell(link, NodeState.DRAINING, "others take over")
        await until(lambda: node.state is NodeState.DRAINING)
        assert not draining.done()
        tell(link, NodeState.DRAINING, "it may go", may_go=True)
        assert await draining is DrainEnd.RELIEVED
        assert await node.drain() is DrainEnd.RELIEVED
        assert wishes(link) == [(Wish.DRAIN, "moving house", False)]


async def test_a_second_drain_and_one_whose_time_is_over_wait_no_longer(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        link = await coordinator.link()
        first = asyncio.create_task(node.drain("sold"))
        await link.until(lambda: bool(link.wishes))
        second = asyncio.create_task(node.drain("sold", timeout_s=0.01))
        await link.until(lambda: link.wishes[-1].at_once)
        tell(link, NodeState.DRAINING, "it goes at once", may_go=True)
        assert await first is await second is DrainEnd.AT_ONCE
        node.resume()
        await link.until(lambda: wish_of(link.wishes[-1].kind) is Wish.SERVE)
        timed = asyncio.create_task(node.drain("sold", timeout_s=0.01))
        await link.until(lambda: link.wishes[-1].at_once)
        tell(link, NodeState.DRAINING, "", may_go=True)
        assert await timed is DrainEnd.AT_ONCE


async def test_a_drain_that_is_taken_back_says_so(coordinator: ScriptedCoordinator, tmp_path: Path) -> None:
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        link = await coordinator.link()
        draining = asyncio.create_task(node.drain())
        await link.until(lambda: bool(link.wishes))
        node.resume()
        assert await draining is DrainEnd.TAKEN_BACK
        tell(link, NodeState.DRAINING, "", may_go=True)
        await link.ping(1)
        assert [kind for kind, _, _ in wishes(link)] == [Wish.DRAIN, Wish.SERVE]


async def test_a_drain_without_a_link_waits_for_one_or_for_the_second_word(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        await coordinator.link()
        await coordinator.stop()
        await until(lambda: not node.status().connected)
        draining = asyncio.create_task(node.drain())
        await until(lambda: node.status().wish == "drain")
        assert not draining.done()
        assert await node.drain() is DrainEnd.AT_ONCE
        assert await draining is DrainEnd.AT_ONCE


async def test_a_drain_ends_with_the_node(coordinator: ScriptedCoordinator, tmp_path: Path) -> None:
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        link = await coordinator.link()
        draining = asyncio.create_task(node.drain())
        await link.until(lambda: bool(link.wishes))
        closing = link_pb2.Closing(reason="you are banned", retry=False)
        link.send(link_pb2.CoordinatorMessage(closing=closing))
        assert await draining is DrainEnd.AT_ONCE
        with pytest.raises(NodeRefusedError):
            await node.wait()
