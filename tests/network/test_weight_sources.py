"""A network whose nodes take their experts from a model hub: answers equal transformers', though the coordinator serves none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from folkmoot.coordinator.engine.requests import SamplingParams
from folkmoot.coordinator.hub.experts_service import ExpertBlobs
from folkmoot.models.prepare import prepare
from folkmoot.protos.folkmoot.v1 import experts_pb2
from folkmoot.tests.support.prepared_models import TinyModels
from folkmoot.tests.support.range_server import range_server
from folkmoot.tests.support.trunk_runner import random_tokens
from folkmoot.tests.support.whole_network import WholeNetwork, whole_network

REVISION = "0123456789abcdef0123456789abcdef01234567"
NEW_TOKENS = 8


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
async def test_answers_are_right_when_no_expert_comes_from_the_coordinator(
    family: str, tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_of_coordinator: list[experts_pb2.FetchRequest] = []

    async def refuse(
        self: ExpertBlobs, request: experts_pb2.FetchRequest, context: Any
    ) -> AsyncIterator[experts_pb2.Chunk]:
        asked_of_coordinator.append(request)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "experts are to be had from the hub")
        yield experts_pb2.Chunk()

    monkeypatch.setattr(ExpertBlobs, "Fetch", refuse)
    model = tiny_models.get(family)
    prepared = prepare(str(model.checkpoint), tmp_path / "prepared", published_at=f"tiny/{family}@{REVISION}")
    assert prepared.manifest.published is not None
    files = {
        prepared.manifest.published.path(file.name): (model.checkpoint / file.name).read_bytes()
        for file in prepared.manifest.files
    }
    prompt = random_tokens(24, 3)
    with range_server(files) as hub:
        async with whole_network(prepared, tmp_path, nodes=0) as network:
            for _ in range(2):
                await network.join(hub_url=hub.address)
            await network.settled(2)
            tokens = await answered(network, prompt)
            held = sum(node.held_bytes for node in network.coordinator.hub.snapshot().nodes)
    assert not asked_of_coordinator
    assert hub.bytes_sent >= held == 2 * prepared.manifest.total_expert_bytes
    tensors = sum(len(entry.ranges) for entry in prepared.manifest.experts.values())
    assert len(hub.asked) < 2 * tensors, "neighbours come together"
    continued = model.reference().generate(
        prompt[None],
        attention_mask=torch.ones(1, len(prompt)),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
    )[0]
    assert tokens == continued[len(prompt) :].tolist()


async def answered(network: WholeNetwork, prompt: torch.Tensor) -> list[int]:
    """A greedy answer's tokens."""
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    tokens: list[int] = []
    async for delta in network.coordinator.engine.submit(prompt.tolist(), sampling):
        tokens += delta.token_ids
    return tokens
