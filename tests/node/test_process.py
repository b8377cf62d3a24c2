"""One process, several coordinators: limits are shared and divided anew, one's end is not the others', and orders reach all."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from folkmoot.errors import UsageError
from folkmoot.ids import ExpertKey
from folkmoot.logs import working_for
from folkmoot.models.manifest import Manifest
from folkmoot.node.control import ControlError, NoNodeRunsError, ask
from folkmoot.node.daemon import NodeDaemon
from folkmoot.node.executor import Executor, Send
from folkmoot.node.joined import JoinedBook
from folkmoot.node.process import NoCoordinatorError
from folkmoot.node.remote import NodeRefusedError
from folkmoot.node.session import Session
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.state_lock import StateInUseError
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.running_node import until
from folkmoot.tests.support.running_process import asked, running
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator
from folkmoot.tests.support.scripted_link import ScriptedLink
from folkmoot.trust.invite import Invite

log = logging.getLogger("folkmoot.tests.computing")

MEMORY = 64 << 20
REFUSED = link_pb2.CoordinatorMessage(closing=link_pb2.Closing(reason="wrong results", retry=False))


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


class Naming(NodeDaemon):
    """Notes whom the thread that computes works for."""

    def make_executor(self, session: Session, manifest: Manifest, send: Send) -> Executor:
        executor = super().make_executor(session, manifest, send)
        answers = executor.answer

        def answer(frame: link_pb2.Frame) -> link_pb2.Result | None:
            log.warning("computing")
            return answers(frame)

        executor.answer = answer  # type: ignore[method-assign]
        return executor


async def test_what_is_logged_while_computing_names_the_coordinator(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    names: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        names.append(working_for.get())
        return True

    log.addFilter(note)
    async with running(coordinator.invite, tmp_path / "node", "london", kind=Naming):
        link, key = await coordinator.link(), ExpertKey(1, 0)
        await link.settled(link.assign([key]), ready=[key])
        await link.answer(link.frame(1, torch.ones(1, 32), [(0, 0, 1.0)]))
    log.removeFilter(note)
    assert names == ["london"]


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


async def test_the_status_is_json_with_a_word_on_each_coordinator(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    state = tmp_path / "node"
    changes: dict[str, Any] = {"name": "kitchen", "public_name": "Ada", "upload_bytes_per_s": "8Mbit/s"}
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
