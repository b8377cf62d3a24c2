"""The handshake's refusals, what happens before the manifest is there, bounds on what waits, and what is said on the way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from folkmoot.node.download_progress import Progress
from folkmoot.node.outbox import MAX_WAITING, Outbox
from folkmoot.node.rate_limit import RateLimit
from folkmoot.node.remote import NodeRefusedError, readable
from folkmoot.node.spoken_state import SpokenState
from folkmoot.node_states import NodeState
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.running_node import running_node, until
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator
from folkmoot.trust.keys import Identity


def changed(**fields: object) -> Callable[[link_pb2.Welcome], None]:
    def change(welcome: link_pb2.Welcome) -> None:
        for name, value in fields.items():
            setattr(welcome, name, value)

    return change


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"coordinator_nonce": b"short"}, "wrong length"),
        ({"manifest_digest": b""}, "wrong length"),
        ({"max_rows_per_frame": 0}, "rows in flight"),
        ({"max_rows_in_flight": 3}, "rows in flight"),
        ({"manifest_length": 1 << 40}, "over the cap"),
        ({"manifest_length": 0}, "over the cap"),
        ({"manifest_length": 100}, "the source sent"),
    ],
)
async def test_a_welcome_that_makes_no_sense_is_named_and_tried_again(
    coordinator: ScriptedCoordinator,
    experts: BareExperts,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    fields: dict[str, object],
    said: str,
) -> None:
    coordinator.script.change_welcome = changed(**fields)
    async with running_node(coordinator.invite, tmp_path / "node"):
        await until(lambda: re.search(f"lost: .*{said}.*trying again", caplog.text) is not None)
        coordinator.script.change_welcome = changed()
        await until(lambda: len(list((tmp_path / "node" / "manifests").glob("*.json"))) == 1)


async def test_a_manifest_with_other_bytes_is_never_used(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator.script.change_manifest = lambda data: data.replace(b"tiny", b"huge")
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        await until(lambda: "sent another manifest" in caplog.text)
        assert not list((tmp_path / "node" / "manifests").iterdir())
        coordinator.script.change_manifest = bytes
        await until(lambda: node.status().connected and coordinator.manifests_served > 1)
        await until(lambda: len(list((tmp_path / "node" / "manifests").glob("*.json"))) == 1)


async def test_a_coordinator_that_closes_before_it_welcomes_is_believed(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    coordinator.script.closing = link_pb2.Closing(reason="you are banned", retry=False)
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        with pytest.raises(NodeRefusedError, match="you are banned"):
            async with asyncio.timeout(20):
                await node.wait()


async def test_a_coordinator_that_enrols_under_another_key_is_refused(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    coordinator.script.challenge_key = Identity.generate().public
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        with pytest.raises(NodeRefusedError, match="another key"):
            async with asyncio.timeout(20):
                await node.wait()
    assert not coordinator.enrolled


async def test_before_the_manifest_is_there_frames_are_refused_pings_answered_and_assignments_kept(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> None:
    coordinator.script.before_manifest = asyncio.Event()
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        epoch = link.assign(experts.keys)
        refusal = await link.answer(link.frame(1, torch.randn(1, 32), [(0, 0, 1.0)]))
        assert isinstance(refusal, link_pb2.Refusal)
        assert refusal.reason == link_pb2.Refusal.REASON_NOT_HELD
        await link.ping(3)
        coordinator.script.before_manifest.set()
        await link.settled(epoch, ready=experts.keys)
        assert isinstance(
            await link.answer(link.frame(1, torch.randn(1, 32), [(0, 0, 1.0)])), link_pb2.Result
        )


async def test_the_outbox_keeps_order_and_makes_readers_wait_when_it_is_full() -> None:
    outbox = Outbox()
    left: list[int] = []
    for number in range(MAX_WAITING):
        await asyncio.wait_for(outbox.room(), 60)
        message = link_pb2.NodeMessage(pong=link_pb2.Pong(token=number))
        outbox.post(message, partial(left.append, number))
    room = asyncio.create_task(outbox.room())
    await asyncio.sleep(0)
    assert not room.done()
    assert [(await outbox.next()).pong.token for _ in range(3)] == [0, 1, 2] == left
    await asyncio.wait_for(room, 60)
    sending = asyncio.create_task(outbox.send(link_pb2.NodeMessage()))
    for _ in range(MAX_WAITING - 2):
        await outbox.next()
    await asyncio.wait_for(sending, 60)
    outbox.close()
    outbox.post(link_pb2.NodeMessage())
    await asyncio.wait_for(outbox.room(), 60)


async def test_a_limit_of_uploads_holds_up_results_and_nothing_else() -> None:
    now_s = [0.0]
    limit = RateLimit(1000, clock=lambda: now_s[0])
    outbox, left = Outbox(limit), list[int]()
    for number in range(2 * MAX_WAITING):
        result = link_pb2.Result(signature=bytes(10_000))
        outbox.post(link_pb2.NodeMessage(result=result), partial(left.append, number))
    await asyncio.wait_for(outbox.room(), 60)
    coming = asyncio.create_task(outbox.next())
    for token in (1, 2):
        outbox.post(link_pb2.NodeMessage(pong=link_pb2.Pong(token=token)))
        assert (await asyncio.wait_for(coming, 60)).pong.token == token
        coming = asyncio.create_task(outbox.next())
        await asyncio.sleep(0)
    leaving = link_pb2.NodeMessage(leaving=link_pb2.Leaving(reason="enough"))
    await asyncio.gather(outbox.send(leaving), coming)
    assert coming.result() == leaving
    assert left == []


async def test_results_that_are_limited_leave_in_order() -> None:
    outbox = Outbox(RateLimit(100_000))
    for sequence in range(4):
        result = link_pb2.Result(sequence=sequence, signature=bytes(40_000))
        outbox.post(link_pb2.NodeMessage(result=result))
    async with asyncio.timeout(60):
        assert [(await outbox.next()).result.sequence for _ in range(4)] == [0, 1, 2, 3]


async def test_states_are_said_with_bytes_rate_and_percent(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = asyncio.Event()

    async def hold(key: object, offset: int) -> None:
        if key != experts.keys[0]:
            await blocked.wait()

    coordinator.script.before_chunk = hold
    caplog.set_level("INFO")
    async with running_node(
        coordinator.invite, tmp_path / "node", progress_interval_s=0.02, fetch_streams=1
    ) as node:
        link = await coordinator.link()
        epoch = link.assign(experts.keys)
        await until(lambda: "12 % (1 of 8 experts" in caplog.text)
        blocked.set()
        await link.settled(epoch, ready=experts.keys)
        await until(lambda: node.state is NodeState.READY)
    said = [record.getMessage() for record in caplog.records if record.name == "folkmoot.node.spoken_state"]
    assert said[0].startswith("joining: 127.0.0.1:")
    assert said[1] == "joining: attached, waiting to be told what to hold"
    assert said[2] == "downloading: 8 experts, 48.0 KiB to fetch"
    half_way = (
        r"downloading: \[##\.{18}\] 12 % \(1 of 8 experts, 6.0 KiB of 48.0 KiB\), "
        r"\d+(\.\d)? [KM]?i?B/s(, \d+ (s|min) left)?"
    )
    assert any(re.fullmatch(half_way, line) for line in said)
    assert re.fullmatch(
        r"ready: 100 % \(8 of 8 experts, 48.0 KiB of 48.0 KiB\), 48.0 KiB fetched in \d+\.\d s", said[-2]
    )
    assert said[-1] == "stopped"


def test_nothing_is_said_twice_in_a_row(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    status = SpokenState()
    for details in ("", "", "half", "half", "all"):
        status.seems(NodeState.DOWNLOADING, details)
    assert [record.getMessage() for record in caplog.records] == [
        "downloading",
        "downloading: half",
        "downloading: all",
    ]


def test_an_empty_assignment_is_complete() -> None:
    assert Progress(0, 0).summary().startswith("100 % (0 of 0 experts")


def test_a_peers_text_is_one_bounded_printable_line() -> None:
    assert readable("a\n b\x1b[31m\t c") == "a b?[31m c"
    assert len(readable("x" * 10_000)) == 512
