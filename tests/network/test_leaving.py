"""Leaving: a node that goes is let go at once, neither side waiting out its patience with the other; an answer that needs it
waits for it, and goes on with the same tokens when it is back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from folkmoot.coordinator.engine.requests import SamplingParams
from folkmoot.coordinator.engine.settings import EngineSettings
from folkmoot.tests.support.prepared_models import TinyModel, TinyModels
from folkmoot.tests.support.running_node import running_node, until
from folkmoot.tests.support.trunk_runner import random_tokens
from folkmoot.tests.support.whole_network import whole_network

NEW_TOKENS = 80


@pytest.fixture
def model(tiny_models: TinyModels) -> TinyModel:
    return tiny_models.get("mixtral")


async def test_the_link_ends_when_the_goodbye_was_heard(
    model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("folkmoot.coordinator.hub.attaching.LAST_WORDS_S", 600.0)
    async with whole_network(model.prepared, tmp_path, nodes=0) as network:
        node = await network.join(leave_timeout_s=600.0)
        await network.settled(1)
        async with asyncio.timeout(60):
            await node.stop()
        (member,) = network.coordinator.hub.snapshot().nodes
        assert (member.state.value, member.reason) == ("lost", "left: the contributor stopped it")


async def test_a_coordinator_that_stops_lets_its_nodes_go(
    model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("folkmoot.coordinator.hub.attaching.LAST_WORDS_S", 600.0)
    monkeypatch.setattr("folkmoot.coordinator.hub.hub.STOP_GRACE_S", 600.0)
    async with whole_network(model.prepared, tmp_path, nodes=2) as network:
        async with asyncio.timeout(60):
            await network.coordinator.stop()
        await until(lambda: all(node.state == "lost" for node in network.nodes))


async def test_an_answer_goes_on_when_the_only_host_is_back(model: TinyModel, tmp_path: Path) -> None:
    prompt = random_tokens(20, 3)
    expected = model.reference().generate(
        prompt[None],
        attention_mask=torch.ones(1, len(prompt)),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
    )[0, len(prompt) :]
    patient = EngineSettings(kv_memory_bytes=8 << 20, not_covered_wait_s=60.0)
    async with whole_network(
        model.prepared, tmp_path, nodes=0, engine=patient, expert_wait_s=0.05
    ) as network:
        hub = network.coordinator.hub
        async with running_node(network.coordinator.invite, tmp_path / "state"):
            await network.settled(1)
            generation = network.coordinator.engine.submit(
                prompt.tolist(), SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
            )
            deltas = aiter(generation)
            tokens = [token for _ in range(5) for token in (await anext(deltas)).token_ids]
        await until(lambda: network.coordinator.engine.stats().waiting == 1)
        assert not hub.covered()
        async with running_node(network.coordinator.invite, tmp_path / "state"):
            tokens += [token async for delta in deltas for token in delta.token_ids]
            (member,) = hub.snapshot().nodes
            assert member.fetched_bytes == 0
    assert len(expected) > 5
    assert tokens == expected.tolist()
