"""How a node comes to a link, loses it and comes back; what ends it for good; how it goes."""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import time
from pathlib import Path

import pytest

from folkmoot.errors import TrustError, UsageError
from folkmoot.node.backoff import Backoff
from folkmoot.node.daemon import NodeDaemon
from folkmoot.node.link import ManifestSignatureError
from folkmoot.node.process import run
from folkmoot.node.remote import NodeRefusedError
from folkmoot.node_states import NodeState
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.state_lock import StateError, StateInUseError
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.running_node import node_settings, running_node, until
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator
from folkmoot.trust.invite import Invite, InviteError
from folkmoot.trust.keys import Identity
from folkmoot.trust.tls import PinError

REFUSED = link_pb2.CoordinatorMessage(closing=link_pb2.Closing(reason="wrong\x1b results", retry=False))


async def ends_with(node: NodeDaemon, kind: type[Exception]) -> str:
    """What ended a node that was started."""
    try:
        with pytest.raises(kind) as ended:
            async with asyncio.timeout(20):
                await node.wait()
        return str(ended.value)
    finally:
        await node.stop()


async def started(invite: str, state_dir: Path) -> NodeDaemon:
    node = NodeDaemon(node_settings(invite, state_dir))
    await node.start()
    return node


async def test_a_mistyped_invite_fails_at_once(coordinator: ScriptedCoordinator, tmp_path: Path) -> None:
    invite = coordinator.invite
    mistyped = invite[:-1] + ("0" if invite[-1] != "0" else "2")
    with pytest.raises(InviteError):
        await started(mistyped, tmp_path / "node")
    assert not (tmp_path / "node").exists()


async def test_a_wrong_join_secret_fails_at_once(coordinator: ScriptedCoordinator, tmp_path: Path) -> None:
    invite = Invite.parse(coordinator.invite)
    wrong = Invite(invite.host, invite.port, invite.fingerprint, bytes(16)).encode()
    said = await ends_with(await started(wrong, tmp_path / "node"), NodeRefusedError)
    assert "join secret" in said
    assert "ask the operator" in said
    assert not coordinator.enrolled


async def test_another_coordinator_at_the_address_is_refused_by_name(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    invite = Invite.parse(coordinator.invite)
    other = Invite(invite.host, invite.port, bytes(32), invite.join_secret).encode()
    said = await ends_with(await started(other, tmp_path / "node"), PinError)
    assert "another coordinator" in said
    assert not coordinator.enrolled


async def test_a_coordinator_that_changes_its_key_under_a_running_node_is_refused(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> None:
    node = await started(coordinator.invite, tmp_path / "node")
    await coordinator.link()
    await coordinator.stop()
    usurper = ScriptedCoordinator(experts, tmp_path / "usurper")
    usurper.port, usurper.join_secret = coordinator.port, coordinator.join_secret
    await usurper.start()
    assert "another coordinator" in await ends_with(node, PinError)
    assert not usurper.enrolled
    await usurper.stop()


async def test_a_manifest_that_the_coordinator_did_not_sign_is_refused(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    coordinator.script.manifest_signer = Identity.generate()
    said = await ends_with(await started(coordinator.invite, tmp_path / "node"), ManifestSignatureError)
    assert "did not sign" in said
    assert coordinator.manifests_served == 0


async def test_a_node_that_is_sent_away_for_good_ends_and_says_why(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    node = await started(coordinator.invite, tmp_path / "node")
    link = await coordinator.link()
    link.send(REFUSED)
    said = await ends_with(node, NodeRefusedError)
    assert re.search(r"wrong. results", said)
    assert "\x1b" not in said
    assert issubclass(NodeRefusedError, TrustError)


async def test_a_node_that_is_closed_with_retry_comes_back(
    coordinator: ScriptedCoordinator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        link.send(link_pb2.CoordinatorMessage(closing=link_pb2.Closing(reason="upgrade", retry=True)))
        await coordinator.link()
    assert re.search(r"lost: the coordinator closed the link: upgrade; trying again in 0\.\d s", caplog.text)


async def test_a_node_waits_for_a_coordinator_that_is_not_there_yet_and_survives_its_restart(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await coordinator.stop()
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        await until(lambda: "no coordinator answers" in caplog.text)
        for _ in range(2):
            await coordinator.start()
            link = await coordinator.link()
            await link.settled(link.assign(experts.keys), ready=experts.keys)
            await coordinator.stop()
            await until(lambda: node.state is NodeState.LOST)
    assert coordinator.bytes_served == experts.manifest.total_expert_bytes


async def test_a_ticket_that_is_refused_is_replaced(coordinator: ScriptedCoordinator, tmp_path: Path) -> None:
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        coordinator.void_before = time.time() + 10_000
        link.end()
        await until(lambda: len(coordinator.refused_tickets) > 0)
        coordinator.void_before = 0.0
        await coordinator.link()
    assert len(coordinator.enrolled) >= 2


@pytest.mark.parametrize(
    "message",
    [
        link_pb2.CoordinatorMessage(),
        link_pb2.CoordinatorMessage(welcome=link_pb2.Welcome()),
        b"\xff\xff\xff not protobuf",
    ],
    ids=["empty", "second welcome", "garbage"],
)
async def test_a_coordinator_that_breaks_the_protocol_loses_the_node_for_a_moment(
    coordinator: ScriptedCoordinator,
    tmp_path: Path,
    message: link_pb2.CoordinatorMessage | bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        link.send(message)
        await coordinator.link()
    assert "lost: the coordinator sent" in caplog.text


async def test_two_nodes_cannot_share_a_state_folder(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node"):
        with pytest.raises(StateInUseError, match=f"process {os.getpid()}.*--state DIR"):
            await started(coordinator.invite, tmp_path / "node")
    async with running_node(coordinator.invite, tmp_path / "node"):
        await coordinator.link()


async def test_a_node_lends_no_more_memory_than_its_machine_has(
    coordinator: ScriptedCoordinator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("folkmoot.node.daemon.lendable_memory_bytes", lambda: 3 << 30)
    async with running_node(coordinator.invite, tmp_path / "node", memory_bytes=500 << 30):
        link = await coordinator.link()
        assert link.hello.memory_bytes == 3 << 30
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line for line in said if "500.0 GiB" in line and "lends 3.0 GiB" in line]


async def test_a_state_folder_that_cannot_be_made_is_named(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StateError, match=f"{tmp_path}/file/node.*--state DIR"):
        await started(coordinator.invite, tmp_path / "file" / "node")
    assert issubclass(StateError, UsageError)


async def test_a_damaged_identity_is_named_and_gives_the_folder_back(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        first = node.node_id
    key = tmp_path / "node" / "identity.key"
    whole = key.read_bytes()
    key.write_bytes(whole[:40])
    with pytest.raises(TrustError, match=r"identity\.key"):
        await started(coordinator.invite, tmp_path / "node")
    key.write_bytes(whole)
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        assert node.node_id == first


async def test_stop_is_quick_even_while_nobody_answers(tmp_path: Path, experts: BareExperts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        invite = Invite("127.0.0.1", silent.getsockname()[1], bytes(32), bytes(16)).encode()
        node = await started(invite, tmp_path / "node")
        await until(lambda: node.state is NodeState.JOINING)
        async with asyncio.timeout(60):
            await node.stop()
        await node.stop()


async def test_a_command_that_is_cancelled_says_goodbye(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    running = asyncio.create_task(run(node_settings(coordinator.invite, tmp_path / "node")))
    link = await coordinator.link()
    running.cancel()
    async with asyncio.timeout(60):
        with pytest.raises(asyncio.CancelledError):
            await running
    await link.until(lambda: link.leaving != "")
    assert link.leaving == "the contributor stopped it"


async def test_the_command_raises_what_ended_the_node(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    running = asyncio.create_task(run(node_settings(coordinator.invite, tmp_path / "node")))
    link = await coordinator.link()
    link.send(REFUSED)
    with pytest.raises(NodeRefusedError):
        async with asyncio.timeout(20):
            await running


def test_pauses_double_to_the_cap_with_jitter_and_start_over_after_a_long_life() -> None:
    backoff = Backoff(0.5, 30.0, random.Random(1))
    steps = [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    pauses = [backoff.pause_s() for _ in steps]
    assert all(step / 2 <= pause <= step for step, pause in zip(steps, pauses, strict=True))
    assert len({pause / step for step, pause in zip(steps, pauses, strict=True)}) == len(steps)
    backoff.lasted(29.0)
    assert backoff.pause_s() >= 15
    backoff.lasted(31.0)
    assert backoff.pause_s() <= 0.5
