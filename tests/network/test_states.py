"""Nodes that pause, drain and come back, in a whole network under load: no request fails, no token is wrong, nothing is
downloaded twice, and coverage never drops because somebody asked politely to go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from folkmoot.bench.adversaries.kinds import Adversary
from folkmoot.bench.adversaries.nodes import AdversaryNode
from folkmoot.coordinator.app import Coordinator
from folkmoot.coordinator.engine.requests import SamplingParams
from folkmoot.coordinator.engine.settings import EngineSettings
from folkmoot.coordinator.hub.snapshot import NodeSnapshot
from folkmoot.ids import NodeId
from folkmoot.models.local import LocalExperts
from folkmoot.models.trunk import Trunk
from folkmoot.node.daemon import NodeDaemon
from folkmoot.node.remote import NodeRefusedError
from folkmoot.node.wishes import DrainEnd
from folkmoot.node_states import NodeState, StateChange
from folkmoot.tests.support.prepared_models import TinyModel, TinyModels
from folkmoot.tests.support.running_node import running_node
from folkmoot.tests.support.trunk_runner import greedy, random_tokens
from folkmoot.tests.support.whole_network import WholeNetwork, coordinator_settings, whole_network

NEW_TOKENS = 8
PROMPT = random_tokens(12, 3)
PATIENCE_S = 60.0
PATIENT: dict[str, Any] = {
    "engine": EngineSettings(kv_memory_bytes=8 << 20, not_covered_wait_s=PATIENCE_S),
    "lost_grace_s": 600.0,
}
PROBED: dict[str, Any] = {"probe": {"enabled": True}}


@pytest.fixture(scope="module")
def model(tiny_models: TinyModels) -> TinyModel:
    return tiny_models.get("qwen3_moe")


@pytest.fixture(scope="module")
def expected(model: TinyModel) -> list[int]:
    """What one machine answers."""
    return greedy(Trunk.load(model.prepared), LocalExperts(model.prepared), PROMPT, NEW_TOKENS)


def history(coordinator: Coordinator, node: NodeId) -> tuple[StateChange, ...]:
    """The last changes of a node's state, the present one last."""
    member = coordinator.hub._roster.find(node)
    assert member is not None
    return member.life.history


async def ask(coordinator: Coordinator) -> list[int]:
    """One greedy answer."""
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    generation = coordinator.engine.submit(PROMPT.tolist(), sampling)
    return [token async for delta in generation for token in delta.token_ids]


def seen(coordinator: Coordinator, node: NodeDaemon) -> NodeSnapshot:
    """What the coordinator says of a node."""
    return next(one for one in coordinator.hub.snapshot().nodes if one.id == node.node_id)


async def until_state(node: NodeDaemon, state: NodeState) -> None:
    """Waits until a node knows itself in a state."""
    async with asyncio.timeout(PATIENCE_S):
        while node.state is not state:  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.01)


@asynccontextmanager
async def loaded(network: WholeNetwork, expected: list[int]) -> AsyncIterator[list[list[int]]]:
    """Asks again and again meanwhile; every answer is right and all experts are covered before and after each."""
    answers: list[list[int]] = []
    over = asyncio.Event()

    async def work() -> None:
        while not over.is_set():
            answers.append(await ask(network.coordinator))
            assert answers[-1] == expected
            assert network.coordinator.hub.covered()

    workers = [asyncio.create_task(work()) for _ in range(2)]
    try:
        yield answers
        over.set()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def test_no_request_fails_while_nodes_drain_and_the_last_one_has_it_all(
    model: TinyModel, expected: list[int], tmp_path: Path
) -> None:
    async with whole_network(model.prepared, tmp_path, nodes=3, **PROBED, lost_grace_s=600.0) as network:
        *leavers, stayer = network.nodes
        uncovered: list[NodeId] = []
        network.coordinator.hub.subscribe(
            lambda node, change: None if network.coordinator.hub.covered() else uncovered.append(node)
        )
        async with loaded(network, expected) as answers:
            for leaver in leavers:
                async with asyncio.timeout(PATIENCE_S):
                    assert await leaver.drain("moving house") is DrainEnd.RELIEVED
                assert leaver.status().state is NodeState.DRAINING
                assert leaver.status().experts_assigned == 0
                asked = len(answers)
                await leaver.stop()
                async with asyncio.timeout(PATIENCE_S):
                    while len(answers) < asked + 3:  # noqa: ASYNC110 - no event to wait for
                        await asyncio.sleep(0.01)
        assert not uncovered
        assert stayer.status().experts_held == len(model.prepared.manifest.experts)
        states = [change.state for change in history(network.coordinator, leavers[0].node_id)]
        assert states[-1] is NodeState.LOST and NodeState.PROBING in states and NodeState.DRAINING in states


async def test_a_pause_keeps_what_is_held_and_resuming_downloads_nothing(
    model: TinyModel, expected: list[int], tmp_path: Path
) -> None:
    async with whole_network(model.prepared, tmp_path, nodes=2, lost_grace_s=600.0) as network:
        resting, _ = network.nodes
        before = resting.status()
        async with loaded(network, expected):
            resting.pause("a film is on")
            await until_state(resting, NodeState.PAUSED)
            assert resting.status().reason == "a film is on"
            assert await ask(network.coordinator) == expected
            signed = resting.status().results_signed
            assert await ask(network.coordinator) == expected
            assert resting.status().results_signed == signed
            resting.resume()
            await until_state(resting, NodeState.READY)
            async with asyncio.timeout(PATIENCE_S):
                while resting.status().results_signed == signed:  # noqa: ASYNC110 - no event to wait for
                    await asyncio.sleep(0.01)
        after = resting.status()
        assert after.experts_held == before.experts_held
        assert after.bytes_fetched == before.bytes_fetched > 0
        assert seen(network.coordinator, resting).fetched_bytes == before.bytes_fetched


async def test_a_request_waits_for_the_only_host_to_resume(
    model: TinyModel, expected: list[int], tmp_path: Path
) -> None:
    async with whole_network(model.prepared, tmp_path, nodes=1, expert_wait_s=0.05, **PATIENT) as network:
        [alone] = network.nodes
        alone.pause("sleep")
        await until_state(alone, NodeState.PAUSED)
        assert "no other host" in alone.status().reason
        asked = asyncio.create_task(ask(network.coordinator))
        async with asyncio.timeout(PATIENCE_S):
            while not network.coordinator.engine.stats().waiting:  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.01)
        alone.resume()
        assert await asked == expected


async def test_a_drain_with_nowhere_to_go_says_so_and_serves_until_it_is_asked_again(
    model: TinyModel, expected: list[int], tmp_path: Path
) -> None:
    async with whole_network(model.prepared, tmp_path, nodes=1, **PATIENT) as network:
        [alone] = network.nodes
        draining = asyncio.create_task(alone.drain("sold"))
        async with asyncio.timeout(PATIENCE_S):
            while "no room" not in alone.status().reason:  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.01)
        assert await ask(network.coordinator) == expected
        assert not draining.done()
        async with asyncio.timeout(PATIENCE_S):
            assert await alone.drain("sold") is DrainEnd.AT_ONCE
            assert await draining is DrainEnd.AT_ONCE
        assert "left without a host" in seen(network.coordinator, alone).reason


async def test_a_coordinator_that_comes_back_finds_its_nodes_with_what_they_hold(
    model: TinyModel, expected: list[int], tmp_path: Path
) -> None:
    async with whole_network(model.prepared, tmp_path, nodes=2, **PROBED, lost_grace_s=600.0) as network:
        assert await ask(network.coordinator) == expected
        port = network.coordinator.hub.port
        held = [node.shelf.held for node in network.nodes]
        await network.coordinator.stop()
        for node in network.nodes:
            await until_state(node, NodeState.LOST)
            assert "trying again" in node.status().reason
        again = Coordinator(
            coordinator_settings(model.prepared, tmp_path, port=port, **PROBED, lost_grace_s=600.0)
        )
        try:
            await again.start()
            for node in network.nodes:
                await until_state(node, NodeState.READY)
            assert await ask(again) == expected
            for node, had in zip(network.nodes, held, strict=True):
                assert node.shelf.held == had
                assert node.status().bytes_fetched == 0
                told = seen(again, node)
                assert told.fetched_bytes == 0 and told.bytes_per_second
                states = [change.state for change in history(again, node.node_id)]
                assert NodeState.DOWNLOADING not in states
        finally:
            await again.stop()


@pytest.mark.parametrize("adversary", [Adversary.INT8_CHANNEL, Adversary.WRONG_EXPERT])
async def test_whoever_is_wrong_from_the_start_never_gets_traffic(
    model: TinyModel, expected: list[int], tmp_path: Path, adversary: Adversary
) -> None:
    async with whole_network(model.prepared, tmp_path, nodes=1, **PROBED) as network:
        folder = tmp_path / "cheat"
        kind: Any = partial(AdversaryNode, adversary=adversary)
        async with running_node(network.coordinator.invite, folder, kind=kind) as cheat:
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(NodeRefusedError, match="a result that it signed was wrong"):
                    await cheat.wait()
            assert cheat.state is NodeState.QUARANTINED
            told = seen(network.coordinator, cheat)
            assert told.state is NodeState.QUARANTINED and "off by" in told.reason
            states = [change.state for change in history(network.coordinator, cheat.node_id)]
            assert NodeState.READY not in states
        assert await ask(network.coordinator) == expected
        assert network.coordinator.engine.consequences()["rewound"] == 0
