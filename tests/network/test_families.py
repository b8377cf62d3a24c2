"""Distribution does not change the answer: for every family, three nodes over real gRPC, TLS and signatures give the logits
and the greedy tokens that transformers gives on one machine in float32, and every result that came in was verified."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from folkmoot.coordinator.app import IDENTITY_FILE
from folkmoot.coordinator.dispatch.network_experts import NetworkExperts
from folkmoot.coordinator.engine.requests import SamplingParams, TokenLogprob
from folkmoot.models.families import FAMILIES
from folkmoot.models.trunk import Trunk
from folkmoot.tests.support.prepared_models import TinyModel, TinyModels
from folkmoot.tests.support.trunk_runner import packed_logits, random_tokens
from folkmoot.tests.support.whole_network import WholeNetwork, whole_network
from folkmoot.trust.keys import Identity

TOLERANCE = 1e-5
LENGTHS = (41, 23)
"""Longer than the windows of the tiny models."""
NEW_TOKENS = 10
NODES = 3


@pytest.mark.parametrize("family", sorted(FAMILIES))
async def test_a_network_gives_the_logits_and_tokens_of_one_machine(
    family: str, tiny_models: TinyModels, tmp_path: Path
) -> None:
    model = tiny_models.get(family)
    trunk, reference = Trunk.load(model.prepared), model.reference()
    prompts = [random_tokens(length, seed) for seed, length in enumerate(LENGTHS)]
    # No node can hold everything, so no answer can come from one node alone.
    memory_bytes = model.prepared.manifest.total_expert_bytes * 3 // 4
    async with whole_network(model.prepared, tmp_path, nodes=0) as network:
        for _ in range(NODES):
            await network.join(memory_bytes=memory_bytes)
        await network.settled(NODES)
        pool = pool_over(network, model)
        packed = await asyncio.to_thread(packed_logits, trunk, pool, prompts)
        answers = await asyncio.gather(*(answer(network, prompt) for prompt in prompts))
        snapshot = network.coordinator.hub.snapshot()

    # Absorbed latent attention sums other products than transformers does, so there the logits' size is the measure.
    latent = trunk.spec.caches[0].value_in_key
    for prompt, logits, (tokens, told, nodes) in zip(prompts, packed, answers, strict=True):
        wanted = logits_of(reference, prompt)
        tolerance = TOLERANCE * (float(wanted.abs().max()) if latent else 1.0)
        torch.testing.assert_close(logits, wanted, rtol=0, atol=tolerance)

        continued = reference.generate(
            prompt[None],
            attention_mask=torch.ones(1, len(prompt)),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
        )[0]
        assert tokens == continued[len(prompt) :].tolist()
        after = torch.log_softmax(logits_of(reference, continued[:-1])[len(prompt) - 1 :], dim=-1)
        expected = after[torch.arange(len(tokens)), torch.tensor(tokens)]
        observed = torch.tensor([entry.logprob for entry in told])
        torch.testing.assert_close(observed, expected, rtol=0, atol=2 * tolerance)
        assert len(nodes) >= 2

    totals = snapshot.totals
    assert totals.results_verified == totals.results_signed == totals.frames > 0
    assert (totals.results_rejected, totals.retries, totals.failed) == (0, 0, {})
    assert snapshot.coverage.replicated == snapshot.coverage.experts
    assert sum(node.results_verified for node in snapshot.nodes) == totals.results_verified


def pool_over(network: WholeNetwork, model: TinyModel) -> NetworkExperts:
    """A pool of the test's own over the network's links."""
    coordinator = network.coordinator
    return NetworkExperts(
        asyncio.get_running_loop(),
        coordinator.hub.directory,
        model.prepared.manifest,
        Identity.load_or_create(coordinator.settings.state_dir / IDENTITY_FILE).public,
        coordinator.counters,
        coordinator.settings.dispatch,
    )


async def answer(
    network: WholeNetwork, prompt: torch.Tensor
) -> tuple[list[int], list[TokenLogprob], set[str]]:
    """A greedy answer of the engine: its tokens, how likely they were, and who computed them."""
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, logprobs=0)
    generation = network.coordinator.engine.submit(prompt.tolist(), sampling)
    tokens: list[int] = []
    logprobs: list[TokenLogprob] = []
    async for delta in generation:
        tokens += delta.token_ids
        logprobs += delta.logprobs or ()
    return tokens, logprobs, set(generation.tally.nodes)


@torch.inference_mode()
def logits_of(reference: Any, tokens: torch.Tensor) -> torch.Tensor:
    """transformers' logits after each token: [length, V]."""
    logits: torch.Tensor = reference(tokens[None]).logits[0]
    return logits
