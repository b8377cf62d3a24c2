"""The coordinator as a whole, with real nodes that download, compute and sign: the answer over HTTP is transformers' own and
says who computed it, whatever happens to the nodes meanwhile."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path

import pytest

from folkmoot.coordinator.dispatch.acceptance import REASONS
from folkmoot.node.daemon import NodeDaemon
from folkmoot.node.settings import NodeSettings
from folkmoot.tests.support.asking import ask, client_of, completion, greedy_text
from folkmoot.tests.support.faulty_node import Fault, FaultyNode
from folkmoot.tests.support.prepared_models import TinyModels
from folkmoot.tests.support.whole_network import whole_network


@pytest.mark.parametrize("family", ["mixtral", "llama"])
async def test_three_nodes_give_the_text_of_one_machine(
    models: TinyModels, tmp_path: Path, family: str
) -> None:
    model = models.get(family)
    async with whole_network(model.prepared, tmp_path) as network:
        document = await ask(network, 10)
        assert document["choices"][0]["text"] == greedy_text(model, 10)
        told = document["folkmoot"]
        ids = {node.node_id for node in network.nodes}
        assert set(told["nodes"]) <= ids
        assert told["nodes"]
        assert told["results_verified"] >= 10
        assert told["results_rejected"] == told["retries"] == 0
        async with client_of(network) as client:
            seen = (await client.get("/v1/network")).json()
            metrics = (await client.get("/metrics")).text
        assert {node["id"] for node in seen["nodes"]} == ids
        assert {node["state"] for node in seen["nodes"]} == {"ready"}
        assert seen["coverage"]["replicated"] == seen["coverage"]["experts"]
        assert seen["counters"]["results_signed"] == seen["counters"]["results_verified"]
        assert f"folkmoot_results_verified_total {seen['counters']['results_verified']}.0" in metrics
        assert 'folkmoot_nodes{state="ready"} 3.0' in metrics
        assert "folkmoot_coverage_ratio 1.0" in metrics
        assert "folkmoot:generation_tokens_total 10.0" in metrics


async def test_a_node_that_vanishes_in_mid_stream_changes_nothing(models: TinyModels, tmp_path: Path) -> None:
    model = models.get("mixtral")
    async with whole_network(model.prepared, tmp_path) as network:
        text, chunks = "", 0
        async with client_of(network) as client:
            request = client.stream("POST", "/v1/completions", json=completion(network, 24, stream=True))
            async with request as reply:
                async for line in reply.aiter_lines():
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    chunk = json.loads(line.removeprefix("data: "))
                    assert "error" not in chunk, chunk
                    text += chunk["choices"][0]["text"] if chunk["choices"] else ""
                    chunks += 1
                    if chunks == 3:
                        await network.nodes[0].stop()
        assert text == greedy_text(model, 24)


async def test_the_only_node_goes_and_comes_back(models: TinyModels, tmp_path: Path) -> None:
    model = models.get("mixtral")
    async with whole_network(model.prepared, tmp_path, nodes=1) as network:
        await network.nodes[0].stop()
        asked = asyncio.create_task(ask(network, 6))
        again = NodeDaemon(network.nodes[0].settings)
        await again.start()
        try:
            assert (await asked)["choices"][0]["text"] == greedy_text(model, 6)
        finally:
            await again.stop()


async def test_without_nodes_the_client_is_told_to_come_again(models: TinyModels, tmp_path: Path) -> None:
    from folkmoot.coordinator.engine.settings import EngineSettings

    engine = EngineSettings(kv_memory_bytes=8 << 20, not_covered_wait_s=0.2)
    async with whole_network(models.get("mixtral").prepared, tmp_path, nodes=0, engine=engine) as network:
        async with client_of(network) as client:
            reply = await client.post("/v1/completions", json=completion(network, 4))
            health = (await client.get("/health")).json()
    assert reply.status_code == 503
    assert int(reply.headers["Retry-After"]) >= 1
    assert reply.json()["error"]["message"]
    assert health["covered"] is False


def _faulty(settings: NodeSettings, *, fault: Fault) -> FaultyNode:
    return FaultyNode(settings, fault=fault, honest_frames=2)


@pytest.mark.parametrize(
    "fault",
    [Fault.OTHER_KEY, Fault.REPLAY, Fault.NAN, Fault.HUGE_LENGTH, Fault.SILENCE],
    ids=lambda fault: fault.name,
)
async def test_a_faulty_real_node_changes_no_answer(models: TinyModels, tmp_path: Path, fault: Fault) -> None:
    model = models.get("mixtral")
    async with whole_network(model.prepared, tmp_path, nodes=2, frame_deadline_s=0.5) as network:
        bad = await network.join(kind=partial(_faulty, fault=fault))
        await network.settled(3)
        text, tally = "", {"results_rejected": 0, "retries": 0}
        shows = "retries" if fault is Fault.SILENCE else "results_rejected"
        async with asyncio.timeout(30):
            while not tally[shows]:
                document = await ask(network, 12)
                text, tally = document["choices"][0]["text"], document["folkmoot"]
                assert text == greedy_text(model, 12)
        totals = network.coordinator.counters.totals()
        assert totals.retries + totals.hedges >= 1 or document["folkmoot"]["rewound"], (
            "another replica was asked, or had been because it took long, or the step was taken again"
        )
        if fault is not Fault.SILENCE:
            rejected = totals.rejected
            assert rejected
            assert set(rejected) <= set(REASONS.values()) | {"late"}
            seen = {node.id: node for node in network.coordinator.hub.snapshot().nodes}[bad.node_id]
            assert seen.results_rejected >= 1


async def test_many_conversations_do_not_mix(models: TinyModels, tmp_path: Path) -> None:
    model = models.get("mixtral")
    async with whole_network(model.prepared, tmp_path) as network:
        prompts = ["one", "two two", "three three three", "four"] * 2
        alone = {
            prompt: (await ask(network, 8, prompt=prompt))["choices"][0]["text"] for prompt in set(prompts)
        }
        together = await asyncio.gather(*(ask(network, 8, prompt=prompt) for prompt in prompts))
        assert [document["choices"][0]["text"] for document in together] == [
            alone[prompt] for prompt in prompts
        ]
