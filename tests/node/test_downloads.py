"""Experts arrive whole and right or not at all: torn streams, wrong bytes, damaged and full disks, expired tickets."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from pathlib import Path

import pytest
import torch

from folkmoot import disk
from folkmoot.ids import ExpertKey
from folkmoot.node_states import NodeState
from folkmoot.protos.folkmoot.v1 import experts_pb2, link_pb2
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.running_node import running_node, until
from folkmoot.tests.support.scripted_coordinator import Script, ScriptedCoordinator
from folkmoot.tests.support.scripted_link import ScriptedLink


def stored(state_dir: Path) -> list[str]:
    """Names of all files in a node's store."""
    return sorted(path.name for path in (state_dir / "experts").glob("??/*"))


def partial_bytes(state_dir: Path, experts: BareExperts, key: ExpertKey) -> int:
    """How much of an unfinished expert is on disk."""
    digest = experts.manifest.experts[key].sha256
    partial = state_dir / "experts" / digest[:2] / f"{digest}.partial"
    return partial.stat().st_size if partial.exists() else 0


async def computes(link: ScriptedLink, key: ExpertKey) -> bool:
    """Whether the node answers for an expert, with a good signature."""
    frame = link.frame(key.layer, torch.randn(2, 32), [(key.expert, 0, 1.0), (key.expert, 1, 1.0)])
    answer = await link.answer(frame)
    if isinstance(answer, link_pb2.Refusal):
        return False
    link.check(frame, answer)
    return True


async def test_a_torn_download_goes_on_where_it_stopped(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> None:
    coordinator.script.break_after = 2048
    key = experts.keys[0]
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        await link.settled(link.assign([key]), ready=[key])
        assert coordinator.fetches == [(key, 0), (key, 2048)]
        assert coordinator.bytes_served == experts.expert_bytes
        assert link.holdings[-1].bytes_fetched == experts.expert_bytes
        assert await computes(link, key)


async def test_a_download_that_a_stop_tore_goes_on_at_the_next_start(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> None:
    blocked = asyncio.Event()

    async def hold(key: ExpertKey, offset: int) -> None:
        if offset >= 3072:
            await blocked.wait()

    coordinator.script.before_chunk = hold
    key = experts.keys[0]
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        link.assign([key])
        await until(lambda: partial_bytes(tmp_path / "node", experts, key) == 3072)
    blocked.set()
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        await link.settled(link.assign([key]), ready=[key])
    assert coordinator.fetches == [(key, 0), (key, 3072)]
    assert coordinator.bytes_served == experts.expert_bytes
    assert stored(tmp_path / "node") == [experts.manifest.experts[key].sha256]


async def test_a_new_assignment_abandons_a_download_and_a_later_one_goes_on_with_it(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> None:
    blocked = asyncio.Event()
    first, second = experts.keys[:2]

    async def hold(key: ExpertKey, offset: int) -> None:
        if key == first and offset == 3072 and not blocked.is_set():
            await blocked.wait()

    coordinator.script.before_chunk = hold
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        link.assign([first])
        await until(lambda: partial_bytes(tmp_path / "node", experts, first) == 3072)
        await link.settled(link.assign([second]), ready=[second])
        blocked.set()
        await link.settled(link.assign([first, second]), ready=[first, second])
        assert coordinator.fetches[0] == (first, 0)
        assert coordinator.fetches[-1] == (first, 3072)


async def test_wrong_bytes_are_never_used_and_are_fetched_again_when_the_source_heals(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong, right = experts.keys[0], experts.keys[1:]
    coordinator.script.wrong = {wrong}
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        await link.settled(link.assign(experts.keys), ready=right, refused=[wrong])
        assert "SHA-256" in link.holdings[-1].reason
        assert [key for key, _ in coordinator.fetches].count(wrong) == 2
        assert experts.manifest.experts[wrong].sha256 not in stored(tmp_path / "node")
        assert not await computes(link, wrong)
        assert await computes(link, right[0])
        coordinator.script.wrong = set()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        assert await computes(link, wrong)
    assert "layer 1 expert 0 cannot be held" in caplog.text


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
async def test_an_expert_damaged_on_disk_is_removed_and_fetched_again(
    coordinator: ScriptedCoordinator,
    experts: BareExperts,
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for turn in range(2):
        async with running_node(coordinator.invite, tmp_path / "node"):
            link = await coordinator.link()
            await link.settled(link.assign(experts.keys), ready=experts.keys)
            assert await computes(link, experts.keys[0])
        if turn:
            break
        digest = experts.manifest.experts[experts.keys[0]].sha256
        blob = tmp_path / "node" / "experts" / digest[:2] / digest
        whole = bytearray(blob.read_bytes())
        whole[100] ^= 1
        data = bytes(whole)
        blob.write_bytes({"flip": data, "cut": data[:100], "empty": b""}[damage])
    assert [key for key, _ in coordinator.fetches[len(experts.keys) :]] == [experts.keys[0]]
    if damage == "flip":
        assert "does not hold the bytes of its name" in caplog.text


async def test_a_damaged_manifest_is_fetched_again(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> None:
    for turn in range(2):
        async with running_node(coordinator.invite, tmp_path / "node"):
            link = await coordinator.link()
            await link.settled(link.assign(experts.keys), ready=experts.keys)
        (manifest,) = (tmp_path / "node" / "manifests").glob("*.json")
        if not turn:
            manifest.write_bytes(manifest.read_bytes().replace(b"tiny", b"huge"))
    assert manifest.read_bytes() == experts.manifest.encoded
    assert coordinator.manifests_served == 2


class FullDisk:
    """A disk on which no expert fits once so many bytes were written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self._write = disk.write_all
        monkeypatch.setattr(disk, "write_all", self.write_all)

    def write_all(self, descriptor: int, data: bytes) -> None:
        if len(data) > self.room:
            self._write(descriptor, data[: self.room])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(data)
        self._write(descriptor, data)


async def test_a_full_disk_is_named_and_the_node_serves_what_it_has(
    coordinator: ScriptedCoordinator,
    experts: BareExperts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    full = FullDisk(monkeypatch, room=2 * experts.expert_bytes + 1500)
    async with running_node(coordinator.invite, tmp_path / "node", fetch_streams=1) as node:
        link = await coordinator.link()
        kept, refused = experts.keys[:2], experts.keys[2:]
        await link.settled(link.assign(experts.keys), ready=kept, refused=refused)
        assert link.holdings[-1].reason == "no room on the node's disk"
        assert "free some room" in caplog.text
        assert str(tmp_path) in caplog.text
        assert stored(tmp_path / "node") == sorted(experts.manifest.experts[key].sha256 for key in kept)
        assert {key for key, _ in coordinator.fetches} == set(experts.keys[:3])
        assert await computes(link, kept[0])
        full.room = 1 << 20
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        await until(lambda: node.state is NodeState.READY)


async def test_a_full_disk_makes_room_by_removing_what_is_not_assigned(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        old, new = experts.keys[:2], experts.keys[2:4]
        await link.settled(link.assign(old), ready=old)
        full = FullDisk(monkeypatch, room=0)
        removed = Path.unlink

        def unlink(path: Path, missing_ok: bool = False) -> None:
            full.room += experts.expert_bytes
            removed(path, missing_ok=missing_ok)

        monkeypatch.setattr(Path, "unlink", unlink)
        await link.settled(link.assign(new), ready=new)
        assert stored(tmp_path / "node") == sorted(experts.manifest.experts[key].sha256 for key in new)


async def test_the_disk_limit_keeps_the_most_recent_experts(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> None:
    limit = 3 * experts.expert_bytes
    async with running_node(coordinator.invite, tmp_path / "node", disk_bytes=limit):
        link = await coordinator.link()
        for key in experts.keys[:5]:
            await link.settled(link.assign([key]), ready=[key])
        names = {experts.manifest.experts[key].sha256 for key in experts.keys[2:5]}
        assert set(stored(tmp_path / "node")) == names
        kept = experts.keys[:3]
        await link.settled(
            link.assign(experts.keys),
            ready=[*kept[:2], experts.keys[4]],
            refused=[kept[2], experts.keys[3], *experts.keys[5:]],
        )


async def test_a_ticket_that_expires_during_downloads_is_renewed(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        coordinator.script.ticket_s = 7200.0
        coordinator.void_before = time.time() + 5000
        await link.settled(link.assign(experts.keys), ready=experts.keys)
    assert len(coordinator.enrolled) == 2


@pytest.mark.parametrize(
    "chunk",
    [
        experts_pb2.Chunk(offset=1, data=b"x"),
        experts_pb2.Chunk(offset=0, data=b""),
        experts_pb2.Chunk(offset=0, data=bytes(1 << 21)),
    ],
    ids=["gap", "empty", "too much"],
)
async def test_a_source_that_breaks_its_contract_is_given_up_and_named(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path, chunk: experts_pb2.Chunk
) -> None:
    wrong, right = experts.keys[0], experts.keys[1]
    coordinator.script.instead = {wrong: chunk}
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        await link.settled(link.assign([wrong, right]), ready=[right], refused=[wrong])
        assert "the source sent" in link.holdings[-1].reason


async def test_a_source_that_goes_quiet_is_asked_again(experts: BareExperts, tmp_path: Path) -> None:
    quiet = [True]

    async def stall(key: ExpertKey, offset: int) -> None:
        if offset == 1024 and quiet:
            quiet.clear()
            await asyncio.Event().wait()

    coordinator = ScriptedCoordinator(experts, tmp_path / "coordinator", Script(before_chunk=stall))
    await coordinator.start()
    async with running_node(coordinator.invite, tmp_path / "node", fetch_stall_s=0.1, fetch_streams=1):
        link = await coordinator.link()
        await link.settled(link.assign(experts.keys[:2]), ready=experts.keys[:2])
        assert (experts.keys[0], 1024) in coordinator.fetches
    await coordinator.stop()


async def test_experts_with_equal_bytes_are_fetched_once(experts: BareExperts, tmp_path: Path) -> None:
    twins = BareExperts.make(distinct=False)
    coordinator = ScriptedCoordinator(twins, tmp_path / "coordinator")
    await coordinator.start()
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        await link.settled(link.assign(twins.keys), ready=twins.keys)
        assert len(coordinator.fetches) == 1
        assert await computes(link, twins.keys[-1])
    await coordinator.stop()
