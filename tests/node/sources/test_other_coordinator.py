"""A coordinator of another network is asked for experts by their SHA-256: right bytes, pinned, and no link."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from folkmoot.coordinator.hub.experts_service import ExpertBlobs
from folkmoot.ids import ExpertKey
from folkmoot.protos.folkmoot.v1 import experts_pb2
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.running_node import running_node
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator
from folkmoot.trust.invite import Invite


class ByDigest(ScriptedCoordinator):
    """Serves experts as a real coordinator does, and notes what was asked."""

    def __init__(self, experts: BareExperts, folder: Path) -> None:
        super().__init__(experts, folder)
        self.asked: list[experts_pb2.FetchRequest] = []
        self._blobs = ExpertBlobs(InMemory(experts), self.identity.public, streams_per_node=16, threads=1)

    async def Fetch(
        self, request: experts_pb2.FetchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[experts_pb2.Chunk]:
        self.asked.append(request)
        async for chunk in self._blobs.Fetch(request, context):
            yield chunk

    async def stop(self) -> None:
        await super().stop()
        self._blobs.close()


class InMemory:
    """A prepared model's experts, without a prepared model."""

    def __init__(self, experts: BareExperts) -> None:
        self.manifest = experts.manifest
        self._blobs = experts.blobs

    def read_expert(self, key: ExpertKey, offset: int = 0, length: int | None = None) -> bytes:
        return self._blobs[key][offset : None if length is None else offset + length]


@pytest.fixture
async def own(experts: BareExperts, tmp_path: Path) -> AsyncIterator[ScriptedCoordinator]:
    server = ScriptedCoordinator(experts, tmp_path / "own")
    await server.start()
    yield server
    await server.stop()


async def other(experts: BareExperts, folder: Path) -> ByDigest:
    server = ByDigest(experts, folder)
    await server.start()
    return server


async def test_experts_of_another_layer_and_name_are_found_by_their_bytes(
    experts: BareExperts, own: ScriptedCoordinator, tmp_path: Path
) -> None:
    elsewhere = BareExperts.make(layers=(7, 8))  # the same bytes under other keys, in another manifest
    assert elsewhere.manifest.digest != experts.manifest.digest
    neighbour = await other(elsewhere, tmp_path / "other")
    async with running_node(own.invite, tmp_path / "node", hub_url="", weight_invites=(neighbour.invite,)):
        link = await own.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        assert link.holdings[-1].bytes_fetched == len(experts.keys) * experts.expert_bytes
    assert not own.fetches
    assert {bytes(request.sha256).hex() for request in neighbour.asked} == {
        entry.sha256 for entry in experts.manifest.experts.values()
    }
    assert neighbour.enrolled == ["test node"]
    await neighbour.stop()


async def test_what_another_coordinator_does_not_have_comes_from_the_own(
    experts: BareExperts, own: ScriptedCoordinator, tmp_path: Path
) -> None:
    some = BareExperts.make(layers=(1,))
    neighbour = await other(some, tmp_path / "other")
    async with running_node(
        own.invite, tmp_path / "node", hub_url="", weight_invites=(neighbour.invite,), fetch_streams=1
    ):
        link = await own.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
    assert [key for key, _ in own.fetches] == [key for key in experts.keys if key.layer == 2]
    await neighbour.stop()


async def test_a_coordinator_with_another_key_than_its_invite_says_is_not_asked(
    experts: BareExperts, own: ScriptedCoordinator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    neighbour = await other(experts, tmp_path / "other")
    invite = Invite.parse(neighbour.invite)
    forged = Invite(invite.host, invite.port, bytes(32), invite.join_secret).encode()
    async with running_node(own.invite, tmp_path / "node", hub_url="", weight_invites=(forged,)):
        link = await own.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
    assert not neighbour.asked
    assert not neighbour.enrolled
    assert caplog.text.count("is not asked any more for this model") == 1
    await neighbour.stop()


async def test_a_coordinator_that_is_gone_is_left_alone(
    experts: BareExperts, own: ScriptedCoordinator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    neighbour = await other(experts, tmp_path / "other")
    await neighbour.stop()
    async with running_node(own.invite, tmp_path / "node", hub_url="", weight_invites=(neighbour.invite,)):
        link = await own.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
    assert caplog.text.count("is left alone for 300 s") == 1
