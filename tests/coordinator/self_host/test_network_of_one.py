"""A coordinator that hosts experts itself: alone it answers as transformers does; nodes that join take work off it, and when they
go it goes on; it never holds more than it may, and says what it holds and computed."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from folkmoot.models.prepare import prepare
from folkmoot.tests.support.asking import ask, client_of, greedy_text
from folkmoot.tests.support.prepared_models import TinyModel, TinyModels
from folkmoot.tests.support.whole_network import WholeNetwork, whole_network

TOKENS = 12


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return TinyModels(tmp_path_factory.mktemp("self-host-models"))


async def seen(network: WholeNetwork) -> dict[str, Any]:
    """What `/v1/network` says now."""
    async with client_of(network) as client:
        document: dict[str, Any] = (await client.get("/v1/network")).json()
    return document


async def until(network: WholeNetwork, condition: Any) -> dict[str, Any]:
    """Waits until what `/v1/network` says fulfils a condition."""
    async with asyncio.timeout(60):
        while not condition(document := await seen(network)):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.02)
    return document


def everything(model: TinyModel) -> int:
    return model.prepared.manifest.total_expert_bytes


@pytest.mark.parametrize("family", ["mixtral", "llama", "deepseek_v3", "gpt_oss"])
async def test_a_network_of_one_answers_as_transformers_does(
    models: TinyModels, tmp_path: Path, family: str
) -> None:
    model = models.get(family)
    async with whole_network(model.prepared, tmp_path, nodes=0, self_host_bytes=everything(model)) as network:
        await network.settled(0)
        document = await ask(network, TOKENS)
        assert document["choices"][0]["text"] == greedy_text(model, TOKENS)
        told = document["folkmoot"]
        assert told["nodes"] == []
        assert told["results_own"] >= TOKENS
        assert (told["results_verified"], told["retries"]) == (0, 0)
        now = await seen(network)
        assert now["coverage"]["fraction"] == 1.0
        assert now["coverage"]["replicated"] == 0
        assert now["self_host"]["experts"] == now["coverage"]["experts"]
        assert now["self_host"]["held_bytes"] == everything(model)
        async with client_of(network) as client:
            metrics = (await client.get("/metrics")).text
        assert f"folkmoot_own_results_total {now['counters']['results_own']}.0" in metrics
        assert f"folkmoot_own_held_bytes {everything(model)}.0" in metrics
        assert "folkmoot_frames_total 0.0" in metrics


async def test_an_audited_answer_waits_for_nothing_where_nobody_else_computed(
    models: TinyModels, tmp_path: Path
) -> None:
    model = models.get("mixtral")
    async with whole_network(model.prepared, tmp_path, nodes=0, self_host_bytes=everything(model)) as network:
        await network.settled(0)
        document = await ask(network, TOKENS, folkmoot={"verify": "audited"})
        assert document["choices"][0]["text"] == greedy_text(model, TOKENS)
        assert document["folkmoot"]["audits_passed"] == 0


async def test_nodes_have_what_does_not_fit_and_are_second_owners_of_the_rest(
    models: TinyModels, tmp_path: Path
) -> None:
    model = models.get("mixtral")
    half = everything(model) // 2
    expected = greedy_text(model, TOKENS)
    async with whole_network(model.prepared, tmp_path, nodes=0, self_host_bytes=half) as network:
        alone = await until(network, lambda now: now["self_host"]["experts"])
        assert alone["coverage"]["fraction"] == 0.5
        assert alone["self_host"]["held_bytes"] <= half
        node = await network.join()
        await network.settled(1)
        document = await ask(network, TOKENS)
        assert document["choices"][0]["text"] == expected
        assert document["folkmoot"]["nodes"] == [node.node_id]
        assert document["folkmoot"]["results_own"] > 0
        both = await seen(network)
        assert both["coverage"]["replicated"] == both["self_host"]["experts"], (
            "what the coordinator has is on a second owner"
        )
        await node.stop()
        gone = await until(network, lambda now: now["coverage"]["fraction"] == 0.5)
        assert gone["self_host"]["experts"] == both["self_host"]["experts"]


async def test_a_node_joins_and_goes_while_answers_are_made(models: TinyModels, tmp_path: Path) -> None:
    model = models.get("mixtral")
    expected = greedy_text(model, TOKENS)
    async with whole_network(model.prepared, tmp_path, nodes=0, self_host_bytes=everything(model)) as network:
        await network.settled(0)
        done = asyncio.Event()

        async def keep_asking() -> int:
            answers = 0
            while not done.is_set():
                document = await ask(network, TOKENS)
                assert document["choices"][0]["text"] == expected
                answers += 1
            return answers

        streams = [asyncio.create_task(keep_asking()) for _ in range(2)]
        node = await network.join()
        await network.settled(1)
        await until(network, lambda now: now["coverage"]["replicated"] == now["coverage"]["experts"])
        await node.stop()
        await until(network, lambda now: now["nodes"][0]["state"] == "lost")
        done.set()
        assert min(await asyncio.gather(*streams)) >= 1


async def test_what_does_not_hash_right_is_left_to_the_nodes(models: TinyModels, tmp_path: Path) -> None:
    model = models.get("mixtral")
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(model.checkpoint, checkpoint)
    prepared = prepare(str(checkpoint), tmp_path / "prepared", slices=None)
    damaged = sorted(prepared.manifest.experts)[1]
    path, offset, _ = prepared.ranges(damaged)[0]
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\x12\x34\x56\x78")
    total = prepared.manifest.total_expert_bytes
    async with whole_network(prepared, tmp_path, nodes=0, self_host_bytes=total) as network:
        experts = len(prepared.manifest.experts)
        now = await until(network, lambda now: now["self_host"]["experts_assigned"] == experts - 1)
        assert now["self_host"]["experts"] == now["coverage"]["covered"] == experts - 1
