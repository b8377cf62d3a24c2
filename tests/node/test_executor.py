"""The executor's limits: rows in flight, deadlines, faults of its own; and every fault that tests inject is what it says."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import torch

from folkmoot.kernels.backend import Processor
from folkmoot.kernels.feed_forward import Group
from folkmoot.kernels.first_products import FirstProducts
from folkmoot.node import premises
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.protos.folkmoot.v1.link_pb2 import Refusal
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.faulty_node import Fault, FaultyNode
from folkmoot.tests.support.gated_node import GatedNode
from folkmoot.tests.support.running_node import node_settings, running_node, until
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator
from folkmoot.tests.support.scripted_link import ScriptedLink
from folkmoot.trust.keys import BadSignatureError, MissingSignatureError


@pytest.fixture
async def gated(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> AsyncIterator[tuple[GatedNode, ScriptedLink]]:
    coordinator.script.max_rows_in_flight, coordinator.script.max_rows_per_frame = 8, 4
    async with running_node(coordinator.invite, tmp_path / "node", kind=GatedNode) as node:
        assert isinstance(node, GatedNode)
        link = await coordinator.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        try:
            yield node, link
        finally:
            node.gate.set()


def frame_of(link: ScriptedLink, rows: int = 4, deadline_ms: int = 10_000) -> link_pb2.Frame:
    return link.frame(1, torch.randn(rows, 32), [(0, row, 1.0) for row in range(rows)], deadline_ms)


async def test_more_rows_than_were_agreed_are_refused_until_some_are_answered(
    gated: tuple[GatedNode, ScriptedLink],
) -> None:
    node, link = gated
    accepted = [frame_of(link), frame_of(link)]
    for frame in accepted:
        link.send(link_pb2.CoordinatorMessage(frame=frame))
    refusal = await link.answer(frame_of(link, rows=1))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == Refusal.REASON_OVERLOADED
    node.gate.set()
    for frame in accepted:
        answer = await link.answer_to(frame.sequence)
        assert isinstance(answer, link_pb2.Result)
        link.check(frame, answer)
    assert isinstance(await link.answer(frame_of(link)), link_pb2.Result)


async def test_frames_without_rows_cannot_fill_the_queue(gated: tuple[GatedNode, ScriptedLink]) -> None:
    node, link = gated
    first = frame_of(link, rows=1)
    empty = [link.frame(1, torch.empty(0, 32), []) for _ in range(8)]
    for frame in (first, *empty[:-1]):
        link.send(link_pb2.CoordinatorMessage(frame=frame))
    last = await link.answer(empty[-1])
    assert isinstance(last, Refusal)
    assert last.reason == Refusal.REASON_OVERLOADED
    node.gate.set()


async def test_a_frame_past_its_deadline_is_dropped(gated: tuple[GatedNode, ScriptedLink]) -> None:
    node, link = gated
    first, late, last = frame_of(link, 1), frame_of(link, 1, deadline_ms=1), frame_of(link, 1, deadline_ms=0)
    for frame in (first, late, last):
        link.send(link_pb2.CoordinatorMessage(frame=frame))
    await link.ping(1)
    arrived_s = time.monotonic()
    await until(lambda: time.monotonic() > arrived_s + 0.01)
    node.gate.set()
    assert isinstance(await link.answer_to(first.sequence), link_pb2.Result)
    assert isinstance(await link.answer_to(last.sequence), link_pb2.Result)
    assert not link.answered(late.sequence)


async def test_a_fault_in_the_computation_refuses_the_frame_and_is_logged_once(
    gated: tuple[GatedNode, ScriptedLink], caplog: pytest.LogCaptureFixture
) -> None:
    node, link = gated
    node.gate.set()
    for _ in range(2):
        node.fails.append(RuntimeError("the kernel broke"))
        refusal = await link.answer(frame_of(link))
        assert isinstance(refusal, Refusal)
        assert refusal.reason == Refusal.REASON_INTERNAL
        assert "the kernel broke" in refusal.detail
    assert caplog.text.count("Traceback") == 1
    assert isinstance(await link.answer(frame_of(link)), link_pb2.Result)


@pytest.mark.parametrize("fault", Fault)
async def test_each_injected_fault_is_what_it_says(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path, fault: Fault
) -> None:
    settings = node_settings(coordinator.invite, tmp_path / "node")
    node = FaultyNode(settings, fault=fault, honest_frames=1)
    await node.start()
    try:
        link = await coordinator.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        honest, frame = frame_of(link), frame_of(link)
        first = await link.answer(honest)
        assert isinstance(first, link_pb2.Result)
        link.check(honest, first)
        link.send(link_pb2.CoordinatorMessage(frame=frame))
        if fault is Fault.SILENCE:
            await link.ping(1)
            assert not link.answered(frame.sequence)
            return
        sequence = frame.sequence + (1_000_000 if fault is Fault.UNASKED else 0)
        answer = await link.answer_to(sequence)
        if fault is Fault.REFUSAL:
            assert isinstance(answer, Refusal)
            return
        assert isinstance(answer, link_pb2.Result)
        match fault:
            case Fault.NAN:
                link.check(frame, answer)
                assert answer.output.data == torch.full((4, 32), torch.nan).numpy().tobytes()
            case Fault.WRONG_SHAPE:
                link.check(frame, answer)
                assert list(answer.output.shape) == [5, 32]
            case Fault.HUGE_LENGTH:
                assert answer.output.length == 4 << 30
            case Fault.UNASKED:
                link.check(frame, answer)
            case Fault.NO_SIGNATURE:
                with pytest.raises(MissingSignatureError):
                    link.check(frame, answer)
            case Fault.HUGE_SHAPE:
                assert list(answer.output.shape) == [1 << 31, 1 << 31]
            case _:
                with pytest.raises(BadSignatureError):
                    link.check(frame, answer)
        if fault is Fault.REPLAY:
            assert answer.signature == first.signature
    finally:
        await node.stop()


async def test_a_node_computes_with_the_backend_that_was_chosen(
    coordinator: ScriptedCoordinator,
    experts: BareExperts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Gpu(Processor):
        rows = 0

        def describe(self) -> str:
            return "a GPU of this test"

        def feed_forward(
            self, groups: Sequence[Group], hidden: torch.Tensor, first: FirstProducts | None = None
        ) -> torch.Tensor:
            self.rows += hidden.shape[0]
            return super().feed_forward(groups, hidden, first)

    gpu = Gpu()
    monkeypatch.setattr(premises, "choose_backend", lambda: gpu)
    caplog.set_level(logging.INFO)
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        assert isinstance(await link.answer(frame_of(link)), link_pb2.Result)
    assert gpu.rows == 4
    assert "computed by a GPU of this test" in caplog.text
