"""Real processes and the official client: a network answers as one machine does, conversations do not mix, and killing a node
or the coordinator at any moment changes no answer and ends nobody else."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from openai.types.chat import ChatCompletionMessageParam

from folkmoot.tests.support.prepared_models import TinyModel, TinyModels
from folkmoot.tests.support.process_network import PATIENCE_S, ProcessNetwork

NODES = ("ash", "birch", "cedar")
LIMIT_S = 1.0
"""How long requests wait for experts without a host, where a test shortens it."""
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Why is the sky blue?"}]
LONG: dict[str, Any] = {"max_tokens": 240, "temperature": 0, "extra_body": {"ignore_eos": True}}
"""An answer that takes long enough for something to happen meanwhile."""


@pytest.fixture(scope="module")
def model(tiny_models: TinyModels) -> TinyModel:
    return tiny_models.get("qwen3_moe")


@pytest.fixture(scope="module")
def shared_network(model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessNetwork]:
    with ProcessNetwork(model.prepared.folder, tmp_path_factory.mktemp("processes"), NODES) as network:
        yield network


@pytest.fixture
def network(shared_network: ProcessNetwork) -> ProcessNetwork:
    """The network, with everything up that an earlier test may have killed."""
    shared_network.heal()
    return shared_network


@pytest.fixture
def client(network: ProcessNetwork) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{network.api_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def expected(model: TinyModel) -> str:
    """What transformers answers to `MESSAGES` in 40 tokens."""
    tokenizer = model.prepared.tokenizer()
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt")[
        "input_ids"
    ]
    answer = model.reference().generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, do_sample=False
    )
    text: str = tokenizer.decode(answer[0, prompt.shape[1] :], skip_special_tokens=True)
    return text


@dataclass
class Told:
    """A streamed answer: its text, the bytes of its tokens, and the coordinator's account of it."""

    text: str
    tokens: list[tuple[int, ...]]
    folkmoot: dict[str, Any]


def collect(chunks: Any) -> Told:
    """Reads a chat stream to its end."""
    told = Told("", [], {})
    for chunk in chunks:
        choice = chunk.choices[0]
        told.text += choice.delta.content or ""
        if choice.logprobs is not None:
            told.tokens += [tuple(entry.bytes or ()) for entry in choice.logprobs.content or []]
        told.folkmoot |= (chunk.model_extra or {}).get("folkmoot") or {}
    return told


def test_the_sync_client_gets_transformers_answer(
    client: openai.OpenAI, model: TinyModel, expected: str
) -> None:
    name = model.prepared.name
    assert [served.id for served in client.models.list()] == [name]
    whole = client.chat.completions.create(model=name, messages=MESSAGES, max_tokens=40, temperature=0)
    assert whole.choices[0].message.content == expected
    streamed = collect(
        client.chat.completions.create(
            model=name, messages=MESSAGES, max_tokens=40, temperature=0, stream=True
        )
    )
    assert streamed.text == expected
    for account in (whole.model_extra["folkmoot"], streamed.folkmoot):  # type: ignore[index]
        assert account["results_verified"] > 0
        assert (account["results_rejected"], account["retries"]) == (0, 0)
        assert account["nodes"]


async def test_the_async_client_gets_transformers_answer(
    network: ProcessNetwork, model: TinyModel, expected: str
) -> None:
    async with openai.AsyncOpenAI(base_url=f"{network.api_url}/v1", api_key="none", max_retries=0) as client:
        ask: dict[str, Any] = {"model": model.prepared.name, "messages": MESSAGES, "max_tokens": 40}
        whole = await client.chat.completions.create(**ask, temperature=0)
        assert whole.choices[0].message.content == expected
        text = ""
        async for chunk in await client.chat.completions.create(**ask, temperature=0, stream=True):
            text += chunk.choices[0].delta.content or ""
        assert text == expected


async def test_conversations_at_once_do_not_mix(network: ProcessNetwork, model: TinyModel) -> None:
    async with openai.AsyncOpenAI(base_url=f"{network.api_url}/v1", api_key="none", max_retries=0) as client:

        async def converse(number: int) -> list[str]:
            """Two turns, each upon the answers before; every other conversation streams, every third is sampled."""
            messages: list[ChatCompletionMessageParam] = []
            answers: list[str] = []
            for turn in range(2):
                messages.append({"role": "user", "content": f"{number} asks {turn}"})
                ask: dict[str, Any] = {"model": model.prepared.name, "messages": messages, "max_tokens": 20}
                ask |= {"temperature": 0.8, "seed": number} if number % 3 == 0 else {"temperature": 0}
                if number % 2:
                    text = ""
                    async for chunk in await client.chat.completions.create(**ask, stream=True):
                        text += chunk.choices[0].delta.content or ""
                else:
                    whole = await client.chat.completions.create(**ask)
                    text = whole.choices[0].message.content or ""
                answers.append(text)
                messages.append({"role": "assistant", "content": text})
            return answers

        alone = [await converse(number) for number in range(6)]
        together = await asyncio.gather(*(converse(number) for number in range(6)))
    assert together == alone
    assert len({answer for answers in alone for answer in answers}) >= 10, "the answers differ enough to tell"


def test_a_node_is_killed_in_the_middle_of_a_stream(
    network: ProcessNetwork, client: openai.OpenAI, model: TinyModel
) -> None:
    ask = {**LONG, "model": model.prepared.name, "messages": MESSAGES, "stream": True, "logprobs": True}
    network.until(lambda state: state["coverage"]["replicated"] == state["coverage"]["experts"])
    undisturbed = collect(client.chat.completions.create(**ask))
    assert len(undisturbed.tokens) == LONG["max_tokens"]

    before = network.until(lambda _: True)
    stream = iter(client.chat.completions.create(**ask))
    told = collect(next(stream) for _ in range(20))
    now = network.until(lambda _: True)
    busiest = max(NODES, key=lambda name: verified(now, name) - verified(before, name))
    network.kill(busiest)
    after = network.until(lambda state: state_of(state, busiest) == "lost")
    rest = collect(stream)
    end = network.until(lambda _: True)

    assert told.tokens + rest.tokens == undisturbed.tokens
    assert told.text + rest.text == undisturbed.text
    assert end["counters"]["frames"] > after["counters"]["frames"], (
        "the answer was not over when the node was lost"
    )
    assert network.node(busiest)["id"] in rest.folkmoot["nodes"], "the node had computed for this answer"
    assert rest.folkmoot["results_rejected"] == 0

    network.start(busiest)
    network.until_whole()
    assert network.node(busiest)["fetched_bytes"] == 0, "its experts were still on its disk"
    assert collect(client.chat.completions.create(**ask)).tokens == undisturbed.tokens


def test_the_coordinator_is_killed_in_the_middle_of_a_stream(
    network: ProcessNetwork, client: openai.OpenAI, model: TinyModel, expected: str
) -> None:
    ask: dict[str, Any] = {"model": model.prepared.name, "messages": MESSAGES}
    nodes = {name: network.pid(name) for name in NODES}
    known = {node["id"] for node in network.until_whole()["nodes"]}
    stream = iter(client.chat.completions.create(**ask, **LONG, stream=True))
    collect(next(stream) for _ in range(20))
    network.kill("coordinator")
    with pytest.raises((httpx.TransportError, openai.APIConnectionError)):
        collect(stream)
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(**ask)
    for name in NODES:
        wait_for_line(network, name, "trying again")

    network.start("coordinator")
    state = network.until_whole()
    assert {name: network.pid(name) for name in NODES} == nodes, "the same processes came back by themselves"
    assert {node["id"] for node in state["nodes"]} == known
    answer = client.chat.completions.create(**ask, max_tokens=40, temperature=0)
    assert answer.choices[0].message.content == expected


def test_a_coordinator_that_is_told_to_stop_says_so_in_the_stream(
    network: ProcessNetwork, client: openai.OpenAI, model: TinyModel
) -> None:
    ask: dict[str, Any] = {"model": model.prepared.name, "messages": MESSAGES}
    stream = iter(client.chat.completions.create(**ask, **LONG, stream=True))
    collect(next(stream) for _ in range(20))
    with ThreadPoolExecutor(1) as thread:
        stopped = thread.submit(network.stop, "coordinator")
        with pytest.raises(openai.APIError, match="send the request again"):
            collect(stream)
        assert stopped.result() == 128 + signal.SIGTERM
    for name in NODES:
        wait_for_line(network, name, "the coordinator stops")
    network.check()


def test_the_only_host_of_some_experts_is_killed(model: TinyModel, tmp_path: Path, expected: str) -> None:
    """Two nodes of which each has room for half of the experts and no more."""
    half = model.prepared.manifest.total_expert_bytes // 2
    limits = {
        "FOLKMOOT_COORDINATOR_ENGINE__NOT_COVERED_WAIT_S": str(LIMIT_S),
        "FOLKMOOT_COORDINATOR_ENGINE__RETRY_AFTER_S": "7",
        "FOLKMOOT_COORDINATOR_EXPERT_WAIT_S": "0.5",
    }
    folder = model.prepared.folder
    with (
        ProcessNetwork(folder, tmp_path, NODES[:2], memory=str(half), environment=limits) as network,
        openai.OpenAI(base_url=f"{network.api_url}/v1", api_key="none", max_retries=0) as client,
    ):
        ask: dict[str, Any] = {"model": model.prepared.name, "messages": MESSAGES}
        state = network.until_whole()
        assert state["coverage"]["replicated"] == 0
        assert [node["experts"] for node in state["nodes"]] == [state["coverage"]["experts"] // 2] * 2
        assert {node["fetched_bytes"] for node in state["nodes"]} == {half}

        begun = iter(client.chat.completions.create(**ask, **LONG, stream=True))
        collect(next(begun) for _ in range(20))
        network.kill("birch")
        with pytest.raises(openai.APIError, match="not every expert has a host"):
            collect(begun)
        for stream in (False, True):
            asked_s = time.monotonic()
            with pytest.raises(openai.InternalServerError, match="not every expert has a host") as caught:
                client.chat.completions.create(**ask, stream=stream)
            assert time.monotonic() - asked_s >= LIMIT_S
            assert caught.value.status_code == 503
            assert caught.value.code == "experts_not_covered"
            assert caught.value.response.headers["Retry-After"] == "7"
        assert network.until(lambda _: True)["coverage"]["fraction"] == 0.5

        network.start("birch")
        network.until_whole()
        assert network.node("birch")["fetched_bytes"] == 0, "its experts were still on its disk"
        answer = client.chat.completions.create(**ask, max_tokens=40, temperature=0)
        assert answer.choices[0].message.content == expected


def state_of(network: dict[str, Any], name: str) -> str:
    """The state of a node."""
    return next(str(node["state"]) for node in network["nodes"] if node["name"] == name)


def verified(network: dict[str, Any], name: str) -> int:
    """How many results of a node were verified."""
    return next(int(node["results_verified"]) for node in network["nodes"] if node["name"] == name)


def wait_for_line(network: ProcessNetwork, name: str, words: str) -> None:
    """Waits until a process has logged some words."""
    deadline = time.monotonic() + PATIENCE_S
    while words not in network.log(name):
        network.check()
        assert time.monotonic() < deadline, f"{name} never logged {words!r}"
        time.sleep(0.02)
