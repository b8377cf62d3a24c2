"""The official `openai` client works against the API: sync and async, streamed and not, chat and plain, with logprobs."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionContentPartTextParam, ChatCompletionMessageParam

from folkmoot.tests.support.api_bench import MODEL, ApiBench, api_bench
from folkmoot.tests.support.scripted_engine import NODES, Finish, Hold, Say, ScriptedEngine

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def bench() -> Iterator[ApiBench]:
    engine = ScriptedEngine(Say("Blue"), Say(""), Say(" sky"), Finish("stop", "."))
    with api_bench(engine) as bench:
        yield bench


def client_of(bench: ApiBench) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{bench.url}/v1", api_key="none", max_retries=0)


def test_chat_answers_whole(bench: ApiBench) -> None:
    with client_of(bench) as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=HELLO, seed=7, temperature=0.5, stop=["END"]
        )
    assert answer.choices[0].message.content == "Blue sky."
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs is None
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("hello") + 4
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (4, answer.usage.prompt_tokens + 4)
    assert answer.id.startswith("chatcmpl-")
    assert answer.id == f"chatcmpl-{bench.engine.submitted[0].generation.id}"
    assert answer.model_extra == {
        "folkmoot": {
            "verify": "signed",
            "nodes": sorted(NODES),
            "results_verified": 7,
            "results_own": 0,
            "results_rejected": 1,
            "retries": 1,
            "audits_passed": 0,
            "rewound": False,
            "suspect_tokens": [],
        }
    }
    sampling = bench.engine.submitted[0].sampling
    assert (sampling.seed, sampling.temperature, sampling.stop, sampling.max_tokens) == (
        7,
        0.5,
        ("END",),
        None,
    )
    assert bytes(bench.engine.submitted[0].prompt_ids[2:7]) != b""


def test_chat_streams_in_openais_order(bench: ApiBench) -> None:
    with client_of(bench) as client:
        chunks = list(
            client.chat.completions.create(
                model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
        )
    first, *pieces, finish, usage = chunks
    assert first.choices[0].delta.role == "assistant"
    assert [piece.choices[0].delta.content for piece in pieces] == ["Blue", " sky", "."]
    assert all(piece.choices[0].delta.role is None for piece in pieces)
    assert finish.choices[0].delta.model_dump(exclude_unset=True) == {}
    assert finish.choices[0].finish_reason == "stop"
    assert finish.model_extra is not None
    assert finish.model_extra["folkmoot"]["results_verified"] == 7
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 4
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_no_usage_chunk_unless_asked(bench: ApiBench) -> None:
    with client_of(bench) as client:
        chunks = list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


async def test_async_client_and_two_conversations_at_once(bench: ApiBench) -> None:
    async with openai.AsyncOpenAI(base_url=f"{bench.url}/v1", api_key="none", max_retries=0) as client:
        hold = Hold()
        bench.engine.script = [Say("slow"), hold, Finish()]
        slow = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        bench.engine.script = [Say("quick"), Finish()]
        quick = await client.chat.completions.create(model=MODEL, messages=HELLO)
        assert quick.choices[0].message.content == "quick"
        hold.go.set()
        texts = [chunk.choices[0].delta.content async for chunk in slow]
    assert "".join(text or "" for text in texts) == "slow"


def test_chat_logprobs(bench: ApiBench) -> None:
    with client_of(bench) as client:
        whole = client.chat.completions.create(model=MODEL, messages=HELLO, logprobs=True, top_logprobs=2)
        streamed = list(
            client.chat.completions.create(
                model=MODEL, messages=HELLO, logprobs=True, top_logprobs=2, stream=True
            )
        )
    assert whole.choices[0].logprobs is not None
    entries = whole.choices[0].logprobs.content
    assert entries is not None
    assert [entry.token for entry in entries] == ["Blue", "", " sky", "."]
    assert entries[0].bytes == list(b"Blue")
    assert [top.token for top in entries[0].top_logprobs] == ["Blue0", "Blue1"]
    pieces = [chunk.choices[0].logprobs for chunk in streamed if chunk.choices[0].logprobs]
    assert [entry.token for piece in pieces for entry in piece.content or []] == ["Blue", "", " sky", "."]


def test_logprobs_without_alternatives(bench: ApiBench) -> None:
    with client_of(bench) as client:
        answer = client.chat.completions.create(model=MODEL, messages=HELLO, logprobs=True)
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    assert answer.choices[0].logprobs.content[0].top_logprobs == []
    assert bench.engine.submitted[0].sampling.logprobs == 0


def test_completions(bench: ApiBench) -> None:
    with client_of(bench) as client:
        whole = client.completions.create(model=MODEL, prompt="Why", logprobs=1, max_tokens=5)
        assert bench.engine.submitted[-1].sampling.max_tokens == 5
        streamed = list(client.completions.create(model=MODEL, prompt=["Why"], stream=True))
        assert bench.engine.submitted[-1].sampling.max_tokens == 16
        client.completions.create(model=MODEL, prompt=[87, 104, 121])
    assert whole.choices[0].text == "Blue sky."
    assert whole.choices[0].logprobs is not None
    assert whole.choices[0].logprobs.tokens == ["Blue", "", " sky", "."]
    assert whole.choices[0].logprobs.text_offset == [0, 4, 4, 8]
    assert whole.choices[0].logprobs.top_logprobs == [
        {"Blue0": -1.0},
        {"0": -1.0},
        {" sky0": -1.0},
        {".0": -1.0},
    ]
    assert "".join(chunk.choices[0].text for chunk in streamed) == "Blue sky."
    assert streamed[-1].choices[0].finish_reason == "stop"
    assert bench.engine.submitted[2].prompt_ids == (87, 104, 121)
    assert bench.engine.submitted[0].prompt_ids == bench.engine.submitted[1].prompt_ids


def test_content_in_parts_and_both_names_of_max_tokens(bench: ApiBench) -> None:
    parts: list[ChatCompletionContentPartTextParam] = [
        {"type": "text", "text": "hel"},
        {"type": "text", "text": "lo"},
    ]
    with client_of(bench) as client:
        client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=3)
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": parts}], max_tokens=3, max_completion_tokens=9
        )
    one, other = bench.engine.submitted
    assert one.prompt_ids == other.prompt_ids
    assert (one.sampling.max_tokens, other.sampling.max_tokens) == (3, 9)


def test_models(bench: ApiBench) -> None:
    with client_of(bench) as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).owned_by == "folkmoot"
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"
