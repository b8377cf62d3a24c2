"""A node that lies, stalls or breaks the protocol changes no answer: each fault is rejected under its own name, in the metric
and in a log line that names the node, while two honest nodes go on. Only the faulty node's answers are made up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import torch

from folkmoot.coordinator.engine.requests import SamplingParams
from folkmoot.coordinator.engine.settings import EngineSettings
from folkmoot.ids import short
from folkmoot.node.daemon import NodeDaemon
from folkmoot.node.remote import NodeRefusedError
from folkmoot.tests.support.faulty_node import Fault, FaultyNode
from folkmoot.tests.support.prepared_models import TinyModel, TinyModels
from folkmoot.tests.support.running_node import until
from folkmoot.tests.support.trunk_runner import random_tokens
from folkmoot.tests.support.whole_network import WholeNetwork, whole_network

NEW_TOKENS = 12
REJECTED = {
    Fault.OTHER_KEY: "signature_wrong",
    Fault.NO_SIGNATURE: "signature_missing",
    Fault.REPLAY: "signature_wrong",
    Fault.OTHER_LAYER: "signature_wrong",
    Fault.OTHER_SESSION: "signature_wrong",
    Fault.CHANGED_OUTPUT: "signature_wrong",
    Fault.NAN: "not_finite",
    Fault.WRONG_SHAPE: "shape",
    Fault.HUGE_SHAPE: "shape",
    Fault.WRONG_DTYPE: "dtype",
    Fault.HUGE_LENGTH: "length",
    Fault.UNASKED: "unasked",
}
"""Answers that are thrown away, and the metric's name for why."""
UNANSWERED = {Fault.REFUSAL: "internal", Fault.SILENCE: "timed_out"}
"""Frames that have no answer, and the metric's name for why."""
PROMPTS = {fault: random_tokens(9, 5).tolist() for fault in Fault} | {Fault.REPLAY: [65]}
AT_ONCE = dict.fromkeys(Fault, 2) | {Fault.REPLAY: 1}
"""Every step of the replay's conversation has one row, so that an old answer has the right shape and only its signature tells."""
DRAFTS = dict.fromkeys(Fault, 4) | {Fault.REPLAY: 0}


def test_every_fault_has_its_reason() -> None:
    assert set(REJECTED) | set(UNANSWERED) == set(Fault)


@pytest.fixture(scope="module")
def model(tiny_models: TinyModels) -> TinyModel:
    return tiny_models.get("qwen3_moe")


@pytest.fixture(scope="module")
def expected(model: TinyModel) -> dict[Fault, list[int]]:
    """What transformers answers."""
    reference = model.reference()

    def answer(prompt: list[int]) -> list[int]:
        tokens = reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
        )
        return [int(token) for token in tokens[0, len(prompt) :]]

    return {fault: answer(prompt) for fault, prompt in PROMPTS.items()}


@asynccontextmanager
async def network_with(fault: Fault, model: TinyModel, folder: Path) -> AsyncIterator[WholeNetwork]:
    """Two honest nodes and, as the last, one that is honest once in each life of its link."""
    engine = EngineSettings(kv_memory_bytes=8 << 20, not_covered_wait_s=5.0, max_draft_tokens=DRAFTS[fault])
    deadline_s = 0.5 if fault in UNANSWERED else 10.0
    async with whole_network(
        model.prepared, folder, nodes=2, frame_deadline_s=deadline_s, engine=engine
    ) as network:
        await network.join(kind=partial(FaultyNode, fault=fault, honest_frames=1))
        await network.settled(3)
        yield network


async def answer(network: WholeNetwork, prompt: list[int]) -> list[int]:
    """A greedy answer of the engine."""
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    return [
        token
        async for delta in network.coordinator.engine.submit(prompt, sampling)
        for token in delta.token_ids
    ]


async def metric(network: WholeNetwork, name: str) -> dict[str, float]:
    """The series of a counter by reason, as Prometheus reads them."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{network.coordinator.api_url}/metrics")).text
    series = [line.split(" ") for line in text.splitlines() if line.startswith(f"{name}{{")]
    return {
        labels.removeprefix(f'{name}{{reason="').removesuffix('"}'): float(value) for labels, value in series
    }


async def answers_until(
    network: WholeNetwork, name: str, fault: Fault, expected: list[int]
) -> dict[str, float]:
    """Asks, every answer right, until the counter has counted something."""
    async with asyncio.timeout(30):
        while not (counted := await metric(network, name)):
            together = (answer(network, PROMPTS[fault]) for _ in range(AT_ONCE[fault]))
            for tokens in await asyncio.gather(*together):
                assert tokens == expected
    return counted


def lines_naming(node: NodeDaemon, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the coordinator has logged about a node."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("folkmoot.coordinator") and short(node.node_id) in record.getMessage()
    ]


@pytest.mark.parametrize("fault", REJECTED, ids=lambda fault: fault.name)
async def test_a_wrong_answer_is_rejected_by_name(
    fault: Fault,
    model: TinyModel,
    expected: dict[Fault, list[int]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with network_with(fault, model, tmp_path) as network:
        *honest, faulty = network.nodes
        rejected = await answers_until(network, "folkmoot_results_rejected_total", fault, expected[fault])
        assert set(rejected) == {REJECTED[fault]}
        snapshot = {node.id: node for node in network.coordinator.hub.snapshot().nodes}
        assert snapshot[faulty.node_id].results_rejected >= 1
        assert [snapshot[node.node_id].results_rejected for node in honest] == [0, 0]
        cut = [line for line in lines_naming(faulty, caplog) if "is cut off" in line]
        assert cut
        assert all(f"({REJECTED[fault]})" in line for line in cut)
        assert not [line for node in honest for line in lines_naming(node, caplog) if "is cut off" in line]
        # They take over what the other had, and that done are ready.
        await network.until(lambda: {network.state(node) for node in honest} == {"ready"})
        assert await answer(network, PROMPTS[fault]) == expected[fault]


@pytest.mark.parametrize("fault", UNANSWERED, ids=lambda fault: fault.name)
async def test_no_answer_is_counted_by_name(
    fault: Fault,
    model: TinyModel,
    expected: dict[Fault, list[int]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with network_with(fault, model, tmp_path) as network:
        faulty = network.nodes[-1]
        failed = await answers_until(network, "folkmoot_frames_failed_total", fault, expected[fault])
        assert UNANSWERED[fault] in failed
        assert await metric(network, "folkmoot_results_rejected_total") == {}
        words = "refuses frame" if fault is Fault.REFUSAL else "missed the deadline of frame"
        assert any(words in line for line in lines_naming(faulty, caplog))
        assert await answer(network, PROMPTS[fault]) == expected[fault]


async def test_a_liar_is_let_in_three_times_and_no_more(
    model: TinyModel, expected: dict[Fault, list[int]], tmp_path: Path
) -> None:
    fault = Fault.OTHER_KEY
    async with network_with(fault, model, tmp_path) as network:
        *honest, faulty = network.nodes
        ended = asyncio.create_task(faulty.wait())
        async with asyncio.timeout(60):
            while not ended.done():
                assert await answer(network, PROMPTS[fault]) == expected[fault]
        with pytest.raises(
            NodeRefusedError, match="will not have this node back: a result was rejected"
        ) as caught:
            await ended
        assert caught.value.advice == "ask the operator"
        assert await metric(network, "folkmoot_results_rejected_total") == {"signature_wrong": 3}
        await until(lambda: network.coordinator.hub.snapshot().coverage.replicated == 16)
        states = {node.id: node.state.value for node in network.coordinator.hub.snapshot().nodes}
        assert states == {faulty.node_id: "quarantined"} | {node.node_id: "ready" for node in honest}
