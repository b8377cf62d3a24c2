"""Over the real wire: audited answers are an honest network's whatever some node does, and come to an end; other answers go back as far
as they can when a node is convicted, and say so where they cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from folkmoot.bench.adversaries.kinds import Adversary
from folkmoot.bench.adversaries.nodes import AdversaryNode
from folkmoot.coordinator.engine.delivery import Delivery, Verification
from folkmoot.coordinator.engine.requests import SamplingParams
from folkmoot.coordinator.engine.settings import EngineSettings
from folkmoot.models.local import LocalExperts
from folkmoot.models.trunk import Trunk
from folkmoot.node.daemon import NodeDaemon
from folkmoot.tests.support.prepared_models import TinyModel, TinyModels
from folkmoot.tests.support.running_node import running_node, until
from folkmoot.tests.support.trunk_runner import greedy, random_tokens
from folkmoot.tests.support.turncoat import Turncoat
from folkmoot.tests.support.whole_network import WholeNetwork, whole_network
from folkmoot.trust.standing import Status

SELDOM = {"probation_audits": 1, "first_audits": 1, "lowest_rate": 1e-6, "busy_share": 1e-6}
"""What is not asked for is hardly ever audited."""
ALWAYS = {"first_audits": 10_000, "busy_share": 1.0}
PROMPT = random_tokens(40, 3).tolist()
TOKENS = 40
WRONG = (
    Adversary.INT8_CHANNEL,
    Adversary.GARBAGE,
    Adversary.ONE_ROW_IN_128,
    Adversary.HONEST_OPENING,
    Adversary.NO_OPENING,
    Adversary.LATE_OPENING,
)


@pytest.fixture(scope="module")
def model(tiny_models: TinyModels) -> TinyModel:
    return tiny_models.get("qwen3_moe")


@asynccontextmanager
async def client_of(network: WholeNetwork) -> AsyncIterator[Any]:
    # Any: its types want literal values where tests go through parameters.
    url = f"{network.coordinator.api_url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def expected_tokens(model: TinyModel, prompt: list[int] = PROMPT, count: int = TOKENS) -> list[int]:
    """What one machine answers."""
    return greedy(Trunk.load(model.prepared), LocalExperts(model.prepared), torch.tensor(prompt), count)


def expected_text(model: TinyModel, prompt: list[int] = PROMPT) -> str:
    """The same as text."""
    # Any: transformers' own types.
    tokenizer: Any = model.prepared.tokenizer()
    return str(tokenizer.decode(expected_tokens(model, prompt), skip_special_tokens=True))


@pytest.fixture(scope="module")
def text(model: TinyModel) -> str:
    """What one machine answers to the prompt."""
    return expected_text(model)


async def ask(
    client: Any, verify: str, *, prompt: list[int] = PROMPT, stream: bool = True, count: int = TOKENS
) -> tuple[str, dict[str, Any]]:
    """The text of an answer, and its object `folkmoot`."""
    name = (await client.models.list()).data[0].id
    answer = await client.completions.create(
        model=name,
        prompt=prompt,
        max_tokens=count,
        temperature=0,
        stream=stream,
        extra_body={"folkmoot": {"verify": verify}},
    )
    if not stream:
        return answer.choices[0].text, answer.model_extra["folkmoot"]
    chunks = [chunk async for chunk in answer]
    return "".join(chunk.choices[0].text for chunk in chunks), chunks[-1].model_extra["folkmoot"]


async def join(network: WholeNetwork, kind: Any) -> Any:
    """One more node, which has its share of experts when this returns."""
    node = await network.join(kind=kind)
    await network.settled(len(network.nodes))
    return node


def standing(network: WholeNetwork, node: NodeDaemon) -> Status:
    return next(one.standing for one in network.coordinator.hub.snapshot().nodes if one.id == node.node_id)


@pytest.mark.parametrize("adversary", WRONG, ids=lambda adversary: adversary.name)
async def test_an_audited_answer_is_the_honest_one(
    adversary: Adversary, model: TinyModel, text: str, tmp_path: Path
) -> None:
    quick = {"frame_deadline_s": 1.0, "audit": SELDOM | {"probation_experts": 1000}}
    async with whole_network(model.prepared, tmp_path, nodes=2, **quick) as network:
        cheat = await join(network, partial(AdversaryNode, adversary=adversary))
        async with client_of(network) as client:
            answer, told = await ask(client, "audited")
        assert answer == text
        assert (told["verify"], told["suspect_tokens"]) == ("audited", [])
        assert told["audits_passed"] > 0
        if told["rewound"]:
            assert standing(network, cheat) is Status.QUARANTINED


@pytest.mark.parametrize("family", ["llama4_text", "deepseek_v3", "llama"])
async def test_every_family_can_be_audited(tiny_models: TinyModels, family: str, tmp_path: Path) -> None:
    """Those whose experts scale their input among them: their rows are not the step's."""
    model = tiny_models.get(family)
    async with whole_network(model.prepared, tmp_path, nodes=1, audit=SELDOM) as network:
        liar = await join(network, partial(Turncoat, lies_once_at=2))
        async with client_of(network) as client:
            answers = await asyncio.gather(
                ask(client, "audited"), ask(client, "signed"), ask(client, "audited", prompt=PROMPT[:9])
            )
        assert liar.lied == 1
        assert answers[0][0] == expected_text(model)
        assert answers[2][0] == expected_text(model, PROMPT[:9])
        await until(lambda: standing(network, liar) is Status.QUARANTINED)


async def test_an_audited_answer_goes_back_when_a_node_turns(
    model: TinyModel, text: str, tmp_path: Path
) -> None:
    async with whole_network(model.prepared, tmp_path, nodes=2, audit=SELDOM) as network:
        liar = await join(network, Turncoat)
        async with client_of(network) as client:
            name = (await client.models.list()).data[0].id
            stream = await client.completions.create(
                model=name,
                prompt=PROMPT,
                max_tokens=TOKENS,
                temperature=0,
                stream=True,
                extra_body={"folkmoot": {"verify": "audited"}},
            )
            chunks = [await anext(aiter(stream)) for _ in range(2)]
            liar.lies.set()
            chunks += [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].text for chunk in chunks) == text
        if liar.lied:
            assert chunks[-1].model_extra["folkmoot"]["rewound"]
            assert standing(network, liar) is Status.QUARANTINED


async def test_signed_answers_say_what_could_not_be_recalled(model: TinyModel, tmp_path: Path) -> None:
    count = 300
    async with whole_network(model.prepared, tmp_path, nodes=2, audit=ALWAYS) as network:
        liar = await join(network, Turncoat)
        engine = network.coordinator.engine
        sampling = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        streamed = engine.submit(PROMPT, sampling)
        whole = engine.submit(PROMPT, sampling, Delivery(whole=True))
        ended = engine.submit(PROMPT, SamplingParams(temperature=0, max_tokens=1))
        liar.lies.set()
        # An audit of an earlier result may be out; what is out is at most late.
        read, recalled, _ = await asyncio.gather(*(_read(one) for one in (streamed, whole, ended)))
        assert standing(network, liar) is Status.QUARANTINED
        assert streamed.rewound and whole.rewound
        assert not whole.suspect_tokens
        right = greedy(Trunk.load(model.prepared), LocalExperts(model.prepared), torch.tensor(PROMPT), count)
        assert recalled[: len(right)] == right
        for first, end in streamed.suspect_tokens:
            assert read[:first] == recalled[:first]
            assert 0 <= first < end < count
        async with httpx.AsyncClient() as client:
            url = network.coordinator.api_url
            told = (await client.get(f"{url}/v1/network")).json()["answers"]
            metrics = (await client.get(f"{url}/metrics")).text
        assert told["rewound"] == 2
        assert [entry["node"] for entry in told["last_doubted"]] == [liar.node_id] * told["doubted"]
        assert "folkmoot_answers_rewound_total 2.0" in metrics
        assert f"folkmoot_answers_doubted_total {float(told['doubted'])}" in metrics


async def _read(generation: Any) -> list[int]:
    return [token async for delta in generation for token in delta.token_ids]


async def test_an_audited_answer_outlives_a_node(model: TinyModel, tmp_path: Path) -> None:
    async with whole_network(model.prepared, tmp_path, nodes=3, audit=SELDOM) as network:
        generation = network.coordinator.engine.submit(
            PROMPT,
            SamplingParams(temperature=0, max_tokens=TOKENS),
            Delivery(Verification.AUDITED),
        )
        deltas = aiter(generation)
        tokens = list((await anext(deltas)).token_ids)
        await network.nodes[0].stop()
        tokens += [token async for delta in deltas for token in delta.token_ids]
        assert tokens == expected_tokens(model)


async def test_an_audited_answer_waits_for_its_only_host(model: TinyModel, tmp_path: Path) -> None:
    patient = EngineSettings(kv_memory_bytes=8 << 20, not_covered_wait_s=60.0)
    async with whole_network(
        model.prepared, tmp_path, nodes=0, engine=patient, expert_wait_s=0.05, audit=SELDOM
    ) as network:
        engine = network.coordinator.engine
        async with running_node(network.coordinator.invite, tmp_path / "state"):
            await network.settled(1)
            generation = engine.submit(
                PROMPT,
                SamplingParams(temperature=0, max_tokens=TOKENS),
                Delivery(Verification.AUDITED),
            )
            deltas = aiter(generation)
            tokens = list((await anext(deltas)).token_ids)
        await until(lambda: engine.stats().waiting == 1 or generation.ended)
        async with running_node(network.coordinator.invite, tmp_path / "state"):
            tokens += [token async for delta in deltas for token in delta.token_ids]
        assert tokens == expected_tokens(model)


async def test_an_answer_whose_audits_do_not_come_ends_with_the_coordinator(
    model: TinyModel, tmp_path: Path
) -> None:
    quick = {"frame_deadline_s": 600.0, "audit": SELDOM}
    async with whole_network(model.prepared, tmp_path, nodes=0, **quick) as network:
        silent = await join(network, Turncoat)
        silent.opens.clear()
        async with client_of(network) as client:
            asked = asyncio.create_task(ask(client, "audited"))
            await until(lambda: network.coordinator.audits.totals().challenges > 0)
            async with asyncio.timeout(60):
                await network.coordinator.stop()
                with pytest.raises(openai.APIError):
                    await asked


async def test_where_nothing_is_audited_an_audited_answer_is_refused(
    model: TinyModel, text: str, tmp_path: Path
) -> None:
    async with whole_network(model.prepared, tmp_path, nodes=1, audit={"enabled": False}) as network:
        async with client_of(network) as client:
            with pytest.raises(openai.BadRequestError, match=r"audits nothing.*audit\.enabled") as caught:
                await ask(client, "audited")
            assert caught.value.param == "folkmoot.verify"
            answer, told = await ask(client, "signed", stream=False)
            assert (answer, told["verify"]) == (text, "signed")
