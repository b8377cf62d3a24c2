"""Distribution does not change the answer of a quantized model either: nodes compute from the same canonical bytes as one
machine, whatever their format, and give its tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from folkmoot.coordinator.engine.requests import SamplingParams
from folkmoot.models.local import LocalExperts
from folkmoot.models.prepare import prepare
from folkmoot.models.prepared import PreparedModel
from folkmoot.models.trunk import Trunk
from folkmoot.tests.support.published_forms import fp8_pair, mxfp4_pair
from folkmoot.tests.support.tiny_models import tiny_checkpoint
from folkmoot.tests.support.trunk_runner import greedy, random_tokens
from folkmoot.tests.support.whole_network import whole_network

NEW_TOKENS = 10
NODES = 2


def model_in(form: str, folder: Path) -> PreparedModel:
    """A tiny model in a format: as published, where it is one that is published."""
    if form == "fp8_block":
        return prepare(str(fp8_pair("deepseek_v3", folder)[0]), folder / "prepared")
    if form == "mxfp4":
        return prepare(str(mxfp4_pair(folder)[0]), folder / "prepared")
    family, sizes = ("granitemoe", {"intermediate_size": 64}) if form == "int4" else ("qwen3_moe", {})
    if form == "int8":
        sizes = {"moe_intermediate_size": 64}
    checkpoint = tiny_checkpoint(family, folder / "checkpoint", **sizes)
    return prepare(str(checkpoint), folder / "prepared", weight_format=form)


@pytest.mark.parametrize("form", ["int8", "int8_channel", "int4", "fp8_block", "mxfp4"])
async def test_a_network_gives_the_tokens_of_one_machine(form: str, tmp_path: Path) -> None:
    model = model_in(form, tmp_path / "model")
    assert {spec.dtype for spec in model.manifest.specs} == {form}
    prompt = random_tokens(20, 3)
    want = greedy(Trunk.load(model), LocalExperts(model), prompt, NEW_TOKENS)
    memory_bytes = model.manifest.total_expert_bytes * 3 // 4
    async with whole_network(model, tmp_path, nodes=0) as network:
        for _ in range(NODES):
            await network.join(memory_bytes=memory_bytes)
        await network.settled(NODES)
        sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
        generation = network.coordinator.engine.submit(prompt.tolist(), sampling)
        got = [token async for delta in generation for token in delta.token_ids]
        totals = network.coordinator.hub.snapshot().totals
    assert got == want
    assert len(set(generation.tally.nodes)) == NODES
    assert totals.results_verified == totals.results_signed > 0 and totals.results_rejected == 0
