"""A coordinator is left, or all are drained: nothing is divided, left or kept at the wrong time."""

from __future__ import annotations

import asyncio
import functools
from datetime import datetime
from pathlib import Path

import pytest

from folkmoot.node.control import ControlError
from folkmoot.node.joined import JoinedBook, UnknownCoordinatorError
from folkmoot.node.remote import NodeRefusedError
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.tests.support.running_node import until
from folkmoot.tests.support.running_process import asked, running
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator

REFUSED = link_pb2.CoordinatorMessage(closing=link_pb2.Closing(reason="wrong results", retry=False))


async def test_a_drain_ends_the_process_once_everybody_lets_it_go(
    coordinator: ScriptedCoordinator, other: ScriptedCoordinator, tmp_path: Path
) -> None:
    state = tmp_path / "node"
    JoinedBook(state).add(coordinator.invite, "london")
    async with running(other.invite, state, "paris") as process:
        links = [await coordinator.link(), await other.link()]
        draining = asyncio.create_task(asked(state, "drain", timeout_s=None))
        for link in links:
            await link.until(functools.partial(bool, link.wishes))
            assert link.wishes[-1].kind == link_pb2.Wish.KIND_DRAIN
        assert not draining.done()
        for link in links:
            change = link_pb2.StateChange(state=link_pb2.NODE_STATE_DRAINING, may_go=True)
            link.send(link_pb2.CoordinatorMessage(state_change=change))
        async with asyncio.timeout(60):
            assert await draining == {"london": "relieved", "paris": "relieved"}
            await process.wait()


async def test_a_drain_that_is_taken_back_ends_nothing(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    state = tmp_path / "node"
    async with running(coordinator.invite, state, "london"):
        link = await coordinator.link()
        draining = asyncio.create_task(asked(state, "drain", timeout_s=None))
        await link.until(lambda: bool(link.wishes))
        await asked(state, "resume")
        async with asyncio.timeout(60):
            assert await draining == {"london": "taken back"}
        await link.until(lambda: link.wishes[-1].kind == link_pb2.Wish.KIND_SERVE)
        await link.ping(1)


async def test_memory_is_not_divided_while_the_node_drains(
    coordinator: ScriptedCoordinator, other: ScriptedCoordinator, tmp_path: Path
) -> None:
    state = tmp_path / "node"
    async with running(coordinator.invite, state, "london") as process:
        link = await coordinator.link()
        draining = asyncio.create_task(asked(state, "drain", timeout_s=None))
        await link.until(lambda: bool(link.wishes))
        with pytest.raises(ControlError, match="the node drains"):
            await asked(state, "join", invite=other.invite)
        assert [one.name for one in JoinedBook(state).all()] == ["london"]
        await process._divide()
        await link.ping(1)
        await asked(state, "resume")
        await draining
        await asked(state, "join", invite=other.invite)
        await other.link()


async def test_one_that_is_drained_in_order_to_be_left_is_left_only_when_others_took_over(
    coordinator: ScriptedCoordinator, other: ScriptedCoordinator, tmp_path: Path
) -> None:
    state, kinds = tmp_path / "node", link_pb2.Wish
    now = [datetime(2026, 3, 1, 23, 0)]
    JoinedBook(state).add(coordinator.invite, "london")
    async with running(other.invite, state, "paris", clock=lambda: now[0], hours="22:00-07:00") as process:
        london, paris = await coordinator.link(), await other.link()
        leaving = asyncio.create_task(asked(state, "leave", name="london", drain=True, timeout_s=None))
        await london.until(lambda: bool(london.wishes))
        # The hours end for the others, not for the drain.
        now[0] = datetime(2026, 3, 1, 12, 0)
        await paris.until(lambda: bool(paris.wishes) and paris.wishes[-1].kind == kinds.KIND_PAUSE)
        await london.ping(1)
        assert [wish.kind for wish in london.wishes] == [kinds.KIND_DRAIN]
        await asked(state, "resume")
        with pytest.raises(ControlError, match="taken back: london is not left"):
            await leaving
        await london.until(lambda: london.wishes[-1].kind == kinds.KIND_SERVE)
        assert len((await process.status()).coordinators) == len(JoinedBook(state).all()) == 2
        leaving = asyncio.create_task(asked(state, "leave", name="london", drain=True, timeout_s=None))
        await london.until(lambda: london.wishes[-1].kind == kinds.KIND_DRAIN)
        change = link_pb2.StateChange(state=link_pb2.NODE_STATE_DRAINING, may_go=True)
        london.send(link_pb2.CoordinatorMessage(state_change=change))
        assert await leaving == "london"
        assert [one.name for one in JoinedBook(state).all()] == ["paris"]


async def test_what_was_left_leaves_nothing_in_memory_nor_reserved_on_disk(
    coordinator: ScriptedCoordinator, other: ScriptedCoordinator, tmp_path: Path
) -> None:
    state = tmp_path / "node"
    JoinedBook(state).add(coordinator.invite, "london")
    async with running(other.invite, state, "paris") as process:
        links, daemons = [await coordinator.link(), await other.link()], []
        for link, experts in zip(links, (coordinator.experts, other.experts), strict=True):
            await link.settled(link.assign(list(experts.blobs)), ready=list(experts.blobs))
        daemons = [one.daemon for one in process._engaged]
        assert all(daemon.shelf.held_bytes for daemon in daemons)
        await process.leave("london")
        assert [bool(daemon.shelf.held_bytes) for daemon in daemons] == [False, True]
        links[1].send(REFUSED)
        await until(lambda: not daemons[1].shelf.held)
        assert process._opened.store.clear() > 0
        assert (await process.status()).stored_bytes == 0
        with pytest.raises(NodeRefusedError, match="wrong results"):
            await process.wait()


async def test_leaving_the_last_one_ends_the_process_in_order(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    state = tmp_path / "node"
    async with running(coordinator.invite, state) as process:
        link = await coordinator.link()
        with pytest.raises(ControlError, match="no coordinator called 'paris'") as refused:
            await asked(state, "leave", name="paris")
        assert refused.value.exit_code == UnknownCoordinatorError.exit_code
        await asked(state, "leave", name="127.0.0.1")
        async with asyncio.timeout(60):
            await process.wait()
    assert link.leaving
