"""One process, several coordinators: limits are shared and divided anew, one's end is not the others', and orders reach all."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from folkmoot.errors import UsageError
from folkmoot.ids import ExpertKey
from folkmoot.node.control import ControlError, NoNodeRunsError, ask
from folkmoot.node.joined import JoinedBook, UnknownCoordinatorError
from folkmoot.node.process import NoCoordinatorError, NodeProcess
from folkmoot.node.remote import NodeRefusedError
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.state_lock import StateInUseError
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.running_node import node_settings, until
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator
from folkmoot.tests.support.scripted_link import ScriptedLink
from folkmoot.trust.invite import Invite

MEMORY = 64 << 20
REFUSED = link_pb2.CoordinatorMessage(closing=link_pb2.Closing(reason="wrong results", retry=False))


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[ScriptedCoordinator]:
    server = ScriptedCoordinator(BareExperts.make(seed=1), tmp_path / "other")
    await server.start()
    yield server
    await server.stop()


@asynccontextmanager
async def running(
    invite: str, state: Path, called: str | None = None, clock: Any = None, **changes: Any
) -> AsyncIterator[NodeProcess]:
    """A started process, stopped at the end."""
    process = NodeProcess(node_settings(invite, state, **changes), name=called, clock=clock or datetime.now)
    try:
        await process.start()
        yield process
    finally:
        await process.stop()


async def asked(state: Path, verb: str, **arguments: Any) -> Any:
    return await asyncio.to_thread(ask, state, verb, **arguments)


def rests(link: ScriptedLink, reason: str) -> Callable[[], bool]:
    """Whether the last that a node said on a link is that it rests, for this reason."""
    return lambda: bool(link.wishes) and link.wishes[-1].reason == reason


async def test_two_coordinators_are_served_at_once_and_share_the_memory(
    coordinator: ScriptedCoordinator, other: ScriptedCoordinator, tmp_path: Path
) -> None:
    state = tmp_path / "node"
    JoinedBook(state).add(coordinator.invite, "london")
    async with running(other.invite, state, "paris"):
        first, second = await coordinator.link(), await other.link()
        assert [link.hello.memory_bytes for link in (first, second)] == [MEMORY // 2] * 2
        assert first.hello.node_key == second.hello.node_key
        assert first.hello.threads == second.hello.threads == 1
        for link, experts in ((first, coordinator.experts), (second, other.experts)):
            keys = list(experts.blobs)
            await link.settled(link.assign(keys), ready=keys)
    assert [one.name for one in JoinedBook(state).all()] == ["london", "paris"]
    assert first.leaving and second.leaving


async def test_memory_is_divided_anew_when_one_is_joined_and_when_one_is_left(
    coordinator: ScriptedCoordinator, other: ScriptedCoordinator, tmp_path: Path
) -> None:
    state = tmp_path / "node"
    # Less than two models, so that neither is content with less than its half.
    memory = sum(map(len, coordinator.experts.blobs.values()))
    async with running(coordinator.invite, state, "london", memory_bytes=memory) as process:
        whole = await coordinator.link()
        assert whole.hello.memory_bytes == memory
        assert await asked(state, "join", invite=other.invite, name="paris") == "paris"
        assert (await other.link()).hello.memory_bytes == memory // 2
        assert (await coordinator.link()).hello.memory_bytes == memory // 2
        assert "memory" in whole.leaving
        assert await asked(state, "leave", name="paris") == "paris"
        assert (await coordinator.link()).hello.memory_bytes == memory
        assert [one.name for one in (await process.status()).coordinators] == ["london"]
    assert [one.name for one in JoinedBook(state).all()] == ["london"]


async def test_what_one_model_does_not_need_goes_to_the_other(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    large = ScriptedCoordinator(BareExperts.make(experts=40, hidden=64, intermediate=64), tmp_path / "large")
    await large.start()
    try:
        small_bytes = sum(map(len, coordinator.experts.blobs.values()))
        JoinedBook(tmp_path / "node").add(large.invite, "large")
        async with running(coordinator.invite, tmp_path / "node", memory_bytes=8 * small_bytes):
            async with asyncio.timeout(60):
                # How often it comes before depends on when it turns out what the small model needs.
                while (await large.link()).hello.memory_bytes != 7 * small_bytes:
                    pass
    finally:
        await large.stop()


async def test_experts_on_disk_survive_a_new_division_and_those_of_others_stay(
    coordinator: ScriptedCoordinator, other: ScriptedCoordinator, tmp_path: Path
) -> None:
    state, key = tmp_path / "node", ExpertKey(1, 0)
    size = len(coordinator.experts.blobs[key])
    async with running(coordinator.invite, state, memory_bytes=4 * size, disk_bytes=4 * size) as process:
        link = await coordinator.link()
        keys = [key for key in coordinator.experts.blobs if key.layer == 1]
        await link.settled(link.assign(keys), ready=keys)
        assert (await process.status()).stored_bytes == 4 * size
        await process.join(other.invite)
        again, link = await coordinator.link(), await other.link()
        await again.settled(again.assign(keys[:2]), ready=keys[:2])
        await link.settled(link.assign(keys[:2]), ready=keys[:2])
        assert (await process.status()).stored_bytes == 4 * size
    assert len(coordinator.fetches) == 4


async def test_the_end_of_one_is_not_the_end_of_the_other(
    coordinator: ScriptedCoordinator, other: ScriptedCoordinator, tmp_path: Path
) -> None:
    state = tmp_path / "node"
    JoinedBook(state).add(coordinator.invite, "london")
    async with running(other.invite, state, "paris") as process:
        first, second = await coordinator.link(), await other.link()
        keys = list(other.experts.blobs)
        await second.settled(second.assign(keys), ready=keys)
        first.send(REFUSED)
        await until(lambda: any(one.over for one in process._engaged))
        london, paris = (await process.status()).coordinators
        assert "wrong results" in london.ended
        assert paris.ended == ""
        assert london.status.bytes_held == 0
        await second.ping(1)
        second.send(REFUSED)
        with pytest.raises(NodeRefusedError, match="wrong results"):
            async with asyncio.timeout(60):
                await process.wait()
    assert len(JoinedBook(state).all()) == 2


async def test_one_that_never_took_the_node_in_is_not_remembered(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    state, invite = tmp_path / "node", Invite.parse(coordinator.invite)
    wrong = Invite(invite.host, invite.port, invite.fingerprint, bytes(16)).encode()
    async with running(wrong, state) as process:
        with pytest.raises(NodeRefusedError, match="join secret"):
            async with asyncio.timeout(60):
                await process.wait()
    assert JoinedBook(state).all() == ()
    with pytest.raises(NoCoordinatorError, match="folkmoot node join"):
        async with running("", state):
            pass


async def test_joining_again_with_another_invite_takes_its_place(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    state, invite = tmp_path / "node", Invite.parse(coordinator.invite)
    nowhere = Invite("127.0.0.1", 9, invite.fingerprint, invite.join_secret).encode()
    async with running(nowhere, state, "london") as process:
        assert (await process.join(coordinator.invite)).name == "london"
        await coordinator.link()
        assert (await process.join(coordinator.invite)).name == "london"
        assert len((await process.status()).coordinators) == 1
    assert [one.invite for one in JoinedBook(state).all()] == [coordinator.invite]


async def test_pause_and_resume_reach_all_and_newcomers_too(
    coordinator: ScriptedCoordinator, other: ScriptedCoordinator, tmp_path: Path
) -> None:
    state, kinds = tmp_path / "node", link_pb2.Wish
    async with running(coordinator.invite, state) as process:
        first = await coordinator.link()
        await asked(state, "pause", reason="a game")
        await first.until(lambda: bool(first.wishes) and first.wishes[-1].kind == kinds.KIND_PAUSE)
        assert first.wishes[-1].reason == "a game"
        await process.join(other.invite)
        # It lends less now, and says again on the new link that it rests.
        for link in (await other.link(), await coordinator.link()):
            await link.until(rests(link, "a game"))
        assert (await asked(state, "status"))["resting"] == "a game"
        await asked(state, "resume")
        await link.until(lambda: link.wishes[-1].kind == kinds.KIND_SERVE)
        assert (await process.status()).resting == ""


async def test_outside_of_its_hours_it_rests_and_comes_back(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    now = [datetime(2026, 3, 1, 12, 0)]
    async with running(
        coordinator.invite, tmp_path / "node", clock=lambda: now[0], hours="22:00-07:00"
    ) as process:
        link = await coordinator.link()
        await link.until(lambda: bool(link.wishes) and link.wishes[-1].kind == link_pb2.Wish.KIND_PAUSE)
        assert (await process.status()).resting == "outside of its hours (22:00-07:00); back at 22:00"
        now[0] = datetime(2026, 3, 1, 22, 0)
        await link.until(lambda: link.wishes[-1].kind == link_pb2.Wish.KIND_SERVE)
        assert (await process.status()).resting == ""


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


async def test_the_status_is_json_with_a_word_on_each_coordinator(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    state = tmp_path / "node"
    changes = {"name": "kitchen", "public_name": "Ada", "upload_bytes_per_s": "8Mbit/s"}
    async with running(coordinator.invite, state, "london", **changes):
        link = await coordinator.link()
        keys = list(coordinator.experts.blobs)
        await link.settled(link.assign(keys), ready=keys)
        document = json.loads(json.dumps(await asked(state, "status")))
    assert (document["object"], document["name"], document["public_name"]) == (
        "folkmoot.node",
        "kitchen",
        "Ada",
    )
    assert document["lent"]["upload_bytes_per_s"] == 1_000_000
    (one,) = document["coordinators"]
    assert (one["name"], one["address"]) == ("london", f"127.0.0.1:{coordinator.port}")
    assert (one["experts_held"], one["connected"], one["ended"]) == (len(keys), True, "")
    assert document["stored_bytes"] == one["bytes_held"]
    assert coordinator.enrolled == ["Ada"]


async def test_one_folder_has_one_process_and_no_socket_afterwards(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    state = tmp_path / "node"
    async with running(coordinator.invite, state):
        with pytest.raises(StateInUseError):
            async with running(coordinator.invite, state):
                pass
        assert (state / "control.sock").stat().st_mode & 0o777 == 0o600
    assert not (state / "control.sock").exists()
    with pytest.raises(NoNodeRunsError, match="folkmoot node start"):
        ask(state, "status")


async def test_a_request_that_makes_no_sense_is_refused_and_ends_nothing(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    state = tmp_path / "node"
    async with running(coordinator.invite, state):
        for content in (b"nonsense\n", b"[]\n", b'{"verb": "join"}\n', b"x" * 100_000 + b"\n"):
            reader, writer = await asyncio.open_unix_connection(str(state / "control.sock"))
            writer.write(content)
            answer = json.loads(await reader.readline())
            assert answer["error"]["exit_code"] == UsageError.exit_code
            writer.close()
        with pytest.raises(ControlError, match="cannot 'dance'"):
            await asked(state, "dance")
        assert (await asked(state, "status"))["object"] == "folkmoot.node"
