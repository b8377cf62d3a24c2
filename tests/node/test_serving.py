"""A real node on real gRPC joins, fetches, computes, signs, follows assignments, and says goodbye."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from folkmoot.disk import DiskError
from folkmoot.node.store import ExpertStore
from folkmoot.node_states import NodeState
from folkmoot.protos.codec import decode_tensor
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.running_node import running_node, until
from folkmoot.tests.support.scripted_coordinator import Script, ScriptedCoordinator

PAIRS = [(0, 0, 0.5), (0, 2, 0.25), (1, 0, 0.5), (3, 1, 1.0), (3, 2, 0.75)]


def output_of(result: link_pb2.Result) -> torch.Tensor:
    return decode_tensor(
        result.output, dtype=torch.float32, shape=(None, None), max_bytes=1 << 20, what="output"
    )


async def test_a_node_computes_what_the_kernel_computes_and_signs_it(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        link = await coordinator.link()
        assert link.hello.memory_bytes == 64 << 20
        assert link.hello.node_key.hex() == node.node_id
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        await until(lambda: node.state is NodeState.READY)
        for layer in (1, 2):
            hidden = torch.randn(3, 32)
            frame = link.frame(layer, hidden, PAIRS)
            result = await link.answer(frame)
            assert isinstance(result, link_pb2.Result)
            link.check(frame, result)
            torch.testing.assert_close(
                output_of(result), experts.forward(layer, hidden, PAIRS), rtol=0, atol=1e-6
            )
        await link.ping(7)
        report = link.holdings[-1]
        assert report.bytes_held == experts.manifest.total_expert_bytes
        assert report.bytes_fetched == experts.manifest.total_expert_bytes
        assert coordinator.enrolled == ["test node"]
    assert link.leaving == "the contributor stopped it"
    assert (node.status().state, node.status().reason) == (NodeState.LOST, "stopped")


async def test_bfloat16_models_are_served_in_their_own_type(tmp_path: Path) -> None:
    experts = BareExperts.make(dtype="bfloat16")
    coordinator = ScriptedCoordinator(experts, tmp_path / "coordinator")
    await coordinator.start()
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        hidden = torch.randn(3, 32).bfloat16()
        frame = link.frame(2, hidden, PAIRS)
        result = await link.answer(frame)
        assert isinstance(result, link_pb2.Result)
        link.check(frame, result)
        torch.testing.assert_close(output_of(result), experts.forward(2, hidden, PAIRS), rtol=0.01, atol=0.01)
    await coordinator.stop()


async def test_a_second_start_downloads_nothing(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> None:
    for _ in range(2):
        async with running_node(coordinator.invite, tmp_path / "node"):
            link = await coordinator.link()
            await link.settled(link.assign(experts.keys), ready=experts.keys)
    assert coordinator.bytes_served == experts.manifest.total_expert_bytes
    assert coordinator.manifests_served == 1
    assert link.holdings[-1].bytes_fetched == 0


async def test_an_expert_that_leaves_the_assignment_leaves_memory_and_returns_without_a_download(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        link = await coordinator.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        fewer = experts.keys[:3]
        await link.settled(link.assign(fewer), ready=fewer)
        refusal = await link.answer(link.frame(2, torch.randn(1, 32), [(0, 0, 1.0)]))
        assert isinstance(refusal, link_pb2.Refusal)
        assert refusal.reason == link_pb2.Refusal.REASON_NOT_HELD
        await until(lambda: node.shelf.held == frozenset(fewer))
        assert node.shelf.held_bytes == 3 * experts.expert_bytes
        fetched = len(coordinator.fetches)
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        assert len(coordinator.fetches) == fetched
        answer = await link.answer(link.frame(2, torch.randn(1, 32), [(0, 0, 1.0)]))
        assert isinstance(answer, link_pb2.Result)


async def test_frames_sent_before_a_new_assignment_are_still_answered(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        frames = [link.frame(2, torch.randn(1, 32), [(0, 0, 1.0)]) for _ in range(20)]
        for frame in frames:
            link.send(link_pb2.CoordinatorMessage(frame=frame))
        epoch = link.assign(experts.keys[:1])
        for frame in frames:
            assert isinstance(await link.answer_to(frame.sequence), link_pb2.Result)
        await link.settled(epoch, ready=experts.keys[:1])


async def test_assignments_in_quick_succession_end_with_the_last(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        link = await coordinator.link()
        for turn in range(30):
            link.assign(experts.keys[turn % 5 : turn % 5 + 3])
        last = experts.keys[2:6]
        await link.settled(link.assign(last), ready=last)
        await until(lambda: node.shelf.held == frozenset(last))
        for key in last:
            answer = await link.answer(link.frame(key.layer, torch.randn(1, 32), [(key.expert, 0, 1.0)]))
            assert isinstance(answer, link_pb2.Result)


async def test_after_a_lost_link_the_node_says_at_once_what_it_still_holds(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        link.end()
        link = await coordinator.link()
        await link.settled(0, ready=experts.keys)
        frame = link.frame(1, torch.randn(1, 32), [(2, 0, 1.0)])
        result = await link.answer(frame)
        assert isinstance(result, link_pb2.Result)
        link.check(frame, result)
    assert len(coordinator.enrolled) == 1


async def test_another_model_replaces_the_one_before(experts: BareExperts, tmp_path: Path) -> None:
    other = BareExperts.make(seed=1, hidden=16)
    coordinator = ScriptedCoordinator(experts, tmp_path / "coordinator")
    await coordinator.start()
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        link = await coordinator.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        coordinator.experts = other
        link.end()
        link = await coordinator.link()
        await link.settled(link.assign(other.keys), ready=other.keys)
        assert node.shelf.held_bytes == other.manifest.total_expert_bytes
        hidden = torch.randn(3, 16)
        frame = link.frame(1, hidden, PAIRS)
        result = await link.answer(frame)
        assert isinstance(result, link_pb2.Result)
        link.check(frame, result)
        torch.testing.assert_close(output_of(result), other.forward(1, hidden, PAIRS), rtol=0, atol=1e-6)
    await coordinator.stop()


@pytest.mark.parametrize("memory_experts", [0, 3])
async def test_what_does_not_fit_in_memory_is_refused_and_said(
    coordinator: ScriptedCoordinator,
    experts: BareExperts,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    memory_experts: int,
) -> None:
    memory = memory_experts * experts.expert_bytes + 100
    async with running_node(coordinator.invite, tmp_path / "node", memory_bytes=memory) as node:
        link = await coordinator.link()
        assert link.hello.memory_bytes == memory
        kept, refused = experts.keys[:memory_experts], experts.keys[memory_experts:]
        await link.settled(link.assign(experts.keys), ready=kept, refused=refused)
        assert "limit" in link.holdings[-1].reason
        assert node.shelf.held_bytes <= memory
        assert {key for key, _ in coordinator.fetches} == set(kept)
        assert f"{len(refused)} experts are refused" in caplog.text
        assert ("no expert of" in caplog.text) == (memory_experts == 0), "said before anything is assigned"


async def test_a_system_without_memory_left_is_said_once_and_nothing_more_is_fetched(
    coordinator: ScriptedCoordinator,
    experts: BareExperts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = mmap.mmap
    mapped: list[int] = []

    def one_mapping(descriptor: int, length: int, **keywords: Any) -> mmap.mmap:
        if mapped:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        mapped.append(descriptor)
        return real(descriptor, length, **keywords)

    monkeypatch.setattr(mmap, "mmap", one_mapping)
    async with running_node(coordinator.invite, tmp_path / "node", fetch_streams=1):
        link = await coordinator.link()
        kept, refused = experts.keys[:1], experts.keys[1:]
        await link.settled(link.assign(experts.keys), ready=kept, refused=refused)
        assert link.holdings[-1].reason == "the node's system gives it no more memory"
        assert {key for key, _ in coordinator.fetches} == set(experts.keys[:2])
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line for line in warnings if "cannot be held" in line and "--memory" in line] == warnings[:1]
    assert (
        warnings[1]
        == f"{len(refused)} experts are refused: the node's system gives it no more memory ({len(refused)})"
    )


async def test_a_fault_of_many_experts_is_told_once_for_each_assignment(
    coordinator: ScriptedCoordinator,
    experts: BareExperts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object) -> None:
        raise DiskError("the disk clicks")

    monkeypatch.setattr(ExpertStore, "load", fails)
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        for _ in range(2):
            await link.settled(link.assign(experts.keys), ready=[], refused=experts.keys)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sum("the disk clicks" in line for line in warnings) == 2
    assert (
        warnings.count(
            f"{len(experts.keys)} experts are refused: the node's disk fails ({len(experts.keys)})"
        )
        == 2
    )


async def test_experts_that_the_model_does_not_have_are_refused(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> None:
    unknown = experts.keys[0]._replace(layer=9)
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        await link.settled(link.assign([experts.keys[0], unknown]), ready=experts.keys[:1], refused=[unknown])
        assert link.holdings[-1].reason == "the model has no such expert"


async def test_pings_are_answered_while_experts_are_fetched(experts: BareExperts, tmp_path: Path) -> None:
    blocked = asyncio.Event()

    async def hold(key: object, offset: int) -> None:
        await blocked.wait()

    coordinator = ScriptedCoordinator(experts, tmp_path / "coordinator", Script(before_chunk=hold))
    await coordinator.start()
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        link = await coordinator.link()
        epoch = link.assign(experts.keys)
        await until(lambda: node.state is NodeState.DOWNLOADING)
        await link.ping(1)
        refusal = await link.answer(link.frame(1, torch.randn(1, 32), [(0, 0, 1.0)]))
        assert isinstance(refusal, link_pb2.Refusal)
        blocked.set()
        await link.settled(epoch, ready=experts.keys)
    await coordinator.stop()
