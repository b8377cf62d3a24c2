"""Challenges beside frames: neither keeps the other from being answered, late ones are dropped, and faults end nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.protos.folkmoot.v1.link_pb2 import Refusal
from folkmoot.protos.limits import MAX_CHALLENGED_ROWS_IN_FLIGHT
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.gated_node import GatedNode
from folkmoot.tests.support.running_node import running_node, until
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator
from folkmoot.tests.support.scripted_link import ScriptedLink

Gated = tuple[GatedNode, ScriptedLink, link_pb2.Frame, link_pb2.Result]


@pytest.fixture
async def gated(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> AsyncIterator[Gated]:
    """A node that has answered one frame of four rows and then closed its gate; it may have eight rows in flight."""
    coordinator.script.max_rows_in_flight, coordinator.script.max_rows_per_frame = 8, 4
    async with running_node(coordinator.invite, tmp_path / "node", kind=GatedNode) as node:
        assert isinstance(node, GatedNode)
        link = await coordinator.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        node.gate.set()
        frame = frame_of(link)
        result = await link.answer(frame)
        assert isinstance(result, link_pb2.Result)
        node.gate.clear()
        try:
            yield node, link, frame, result
        finally:
            node.gate.set()


def frame_of(link: ScriptedLink, rows: int = 4) -> link_pb2.Frame:
    return link.frame(1, torch.randn(rows, 32), [(0, row, 1.0) for row in range(rows)])


async def test_challenges_take_no_room_from_frames_and_frames_none_from_challenges(gated: Gated) -> None:
    node, link, frame, result = gated
    challenges, frames = [], []
    for _ in range(2):
        challenges.append(link.challenge(frame, result, [0, 1, 2, 3]))
        frames.append(frame_of(link))
        link.send(link_pb2.CoordinatorMessage(challenge=challenges[-1]))
        link.send(link_pb2.CoordinatorMessage(frame=frames[-1]))
    refusal = await link.answer(frame_of(link, 1))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == Refusal.REASON_OVERLOADED
    challenges.append(link.challenge(frame, result, [0]))
    link.send(link_pb2.CoordinatorMessage(challenge=challenges[-1]))
    node.gate.set()
    for sent in frames:
        answer = await link.answer_to(sent.sequence)
        assert isinstance(answer, link_pb2.Result)
        link.check(sent, answer)
    for challenge in challenges:
        link.check_opening(challenge, await link.opening_to(challenge.nonce))


async def test_more_challenged_rows_than_may_wait_are_refused_until_some_are_opened(gated: Gated) -> None:
    node, link, frame, result = gated
    fit = MAX_CHALLENGED_ROWS_IN_FLIGHT // 4
    waiting = [link.challenge(frame, result, [0, 1, 2, 3]) for _ in range(fit)]
    for challenge in waiting:
        link.send(link_pb2.CoordinatorMessage(challenge=challenge))
    refused = await link.opening(link.challenge(frame, result, [3]))
    assert refused.reason == Refusal.REASON_OVERLOADED
    assert f"{MAX_CHALLENGED_ROWS_IN_FLIGHT} rows are in flight" in refused.refused
    node.gate.set()
    for challenge in waiting:
        link.check_opening(challenge, await link.opening_to(challenge.nonce))
    again = link.challenge(frame, result, [3])
    link.check_opening(again, await link.opening(again))


async def test_a_challenge_past_its_deadline_is_dropped_and_leaves_its_room(gated: Gated) -> None:
    node, link, frame, result = gated
    first = link.challenge(frame, result, [0])
    late = [link.challenge(frame, result, [0, 1, 2, 3], deadline_ms=1) for _ in range(63)]
    last = link.challenge(frame, result, [0], deadline_ms=0)
    for challenge in (first, *late, last):
        link.send(link_pb2.CoordinatorMessage(challenge=challenge))
    await link.ping(1)
    arrived_s = time.monotonic()
    await until(lambda: time.monotonic() > arrived_s + 0.01)
    node.gate.set()
    link.check_opening(first, await link.opening_to(first.nonce))
    link.check_opening(last, await link.opening_to(last.nonce))
    assert not link.openings
    for _ in range(2):
        more = [link.challenge(frame, result, [0, 1, 2, 3]) for _ in range(60)]
        for challenge in more:
            link.send(link_pb2.CoordinatorMessage(challenge=challenge))
        for challenge in more:
            link.check_opening(challenge, await link.opening_to(challenge.nonce))


async def test_an_expert_is_opened_before_an_assignment_that_came_later_drops_it(
    gated: Gated, experts: BareExperts
) -> None:
    node, link, frame, result = gated
    challenge = link.challenge(frame, result, [0])
    link.send(link_pb2.CoordinatorMessage(challenge=challenge))
    epoch = link.assign(experts.keys[1:])
    await link.ping(1)
    node.gate.set()
    link.check_opening(challenge, await link.opening_to(challenge.nonce))
    await link.settled(epoch, ready=experts.keys[1:])
    await until(lambda: experts.keys[0] not in node.shelf.held)
    refused = await link.opening(link.challenge(frame, result, [0]))
    assert (refused.reason, "experts 0" in refused.refused) == (Refusal.REASON_NOT_HELD, True)


async def test_a_fault_in_an_opening_is_refused_and_logged_once(
    gated: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    node, link, frame, result = gated
    node.gate.set()
    for _ in range(2):
        node.fails.append(RuntimeError("the product broke"))
        refused = await link.opening(link.challenge(frame, result, [0]))
        assert (refused.reason, refused.refused) == (
            Refusal.REASON_INTERNAL,
            "RuntimeError: the product broke",
        )
    assert caplog.text.count("Traceback") == 1
    challenge = link.challenge(frame, result, [0])
    link.check_opening(challenge, await link.opening(challenge))


@pytest.mark.parametrize("patience", [0.5, 0.0])
async def test_a_frame_that_comes_while_a_patient_challenge_is_opened_is_answered_first(
    gated: Gated, patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("folkmoot.node.executor.PATIENCE", patience)
    monkeypatch.setattr("folkmoot.node.kept_activations.MOST_FRAMES", 0)  # so that it has to be computed
    node, link, _, _ = gated
    node.gate.set()
    frame = link.frame(1, torch.randn(1, 32), [(0, 0, 0.5), (1, 0, 0.5)])
    result = await link.answer(frame)
    assert isinstance(result, link_pb2.Result)
    node.gate.clear()
    challenge, later = link.challenge(frame, result, [0]), frame_of(link)
    link.send(link_pb2.CoordinatorMessage(challenge=challenge))
    await until(lambda: node.at_gate == 1)
    link.send(link_pb2.CoordinatorMessage(frame=later))
    await link.ping(1)
    node.gate.set()
    if patience:
        link.check_opening(challenge, await link.opening_to(challenge.nonce))
        assert link.answered(later.sequence)
    else:
        assert isinstance(await link.answer_to(later.sequence), link_pb2.Result)
        link.check_opening(challenge, link.openings[challenge.nonce])
