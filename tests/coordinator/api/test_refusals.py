"""What the API refuses, it refuses in OpenAI's shape, with the status, code and parameter that clients act on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from folkmoot.coordinator.api import ApiSettings
from folkmoot.coordinator.engine.faults import NotCoveredError, OverloadedError, PromptTooLongError
from folkmoot.coordinator.engine.roster import closed_error
from folkmoot.tests.support.api_bench import MODEL, ApiBench, api_bench
from folkmoot.tests.support.scripted_engine import Fail, Finish, Say, ScriptedEngine
from folkmoot.tests.support.tiny_models import tiny_tokenizer

CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
SMALL_BODY = 4096


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiBench]:
    with api_bench(ScriptedEngine(Finish()), settings=ApiSettings(max_body_bytes=SMALL_BODY)) as bench:
        yield bench


@pytest.fixture
def bench(shared: ApiBench) -> Iterator[ApiBench]:
    shared.engine.script, shared.engine.refusal = [Say("a"), Finish()], None
    shared.engine.submitted.clear()
    yield shared


def post(bench: ApiBench, path: str, **fields: Any) -> httpx.Response:
    body = {"model": MODEL, **({"messages": HELLO} if path == CHAT else {"prompt": "hello"}), **fields}
    # ASCII: half a character cannot go over the wire in any other way.
    headers = {"Content-Type": "application/json"}
    return httpx.post(bench.url + path, content=json.dumps(body), headers=headers, trust_env=False)


def error_of(response: httpx.Response) -> dict[str, Any]:
    document = response.json()
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    assert "\n" not in document["error"]["message"]
    error: dict[str, Any] = document["error"]
    return error


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("best_of", 3),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"5": 1}),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -0.5),
        ("repetition_penalty", 1.1),
        ("echo", True),
        ("suffix", "end"),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy"}),
        ("prediction", {"type": "content", "content": "x"}),
        ("reasoning_effort", "high"),
        ("min_tokens", 4),
        ("structured_outputs", {"json": {}}),
        ("chat_template", "{{ messages }}"),
        ("chat_template_kwargs", {"enable_thinking": False}),
        ("allowed_token_ids", [1, 2]),
        ("include_stop_str_in_output", True),
        ("skip_special_tokens", False),
    ],
)
@pytest.mark.parametrize("path", [CHAT, PLAIN])
def test_known_but_not_honourable(bench: ApiBench, path: str, name: str, value: Any) -> None:
    response = post(bench, path, **{name: value})
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert name in error["message"]
    assert bench.engine.submitted == []


@pytest.mark.parametrize("path", [CHAT, PLAIN])
def test_values_that_ask_for_nothing_pass(bench: ApiBench, path: str) -> None:
    response = post(
        bench,
        path,
        n=1,
        tools=None,
        tool_choice="auto",
        response_format={"type": "text"},
        logit_bias={},
        presence_penalty=0,
        frequency_penalty=0.0,
        echo=False,
        modalities=["text"],
        chat_template_kwargs={},
        skip_special_tokens=True,
        user="somebody",
        metadata={"a": "b"},
        stop=None,
        seed=None,
        a_field_of_the_future={"x": 1},
    )
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"temperature": 2.1}, "temperature"),
        (CHAT, {"temperature": -0.1}, "temperature"),
        (CHAT, {"temperature": "hot"}, "temperature"),
        (CHAT, {"top_p": 0}, "top_p"),
        (CHAT, {"top_p": 1.01}, "top_p"),
        (CHAT, {"max_tokens": 0}, "max_tokens"),
        (CHAT, {"max_completion_tokens": -1}, "max_completion_tokens"),
        (CHAT, {"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        (CHAT, {"stop": [1]}, "stop"),
        (CHAT, {"stop": ""}, "stop"),
        (CHAT, {"stop": "x" * 2000}, "stop"),
        (CHAT, {"seed": 2**64}, "seed"),
        (CHAT, {"top_logprobs": 3}, "top_logprobs"),
        (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHAT, {"stream_options": {"include_usage": True}}, "stream_options"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": "hello"}, "messages"),
        (CHAT, {"messages": [{"content": "x"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
        ),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        (
            CHAT,
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
            "messages[0].tool_calls",
        ),
        (CHAT, {"messages": [{"role": "user", "content": "half \ud800"}]}, "messages[0].content"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "\udfff"}]}]},
            "messages[0].content[0].text",
        ),
        (PLAIN, {"prompt": "half \ud800"}, "prompt"),
        (PLAIN, {"prompt": ["half \ud800"]}, "prompt"),
        (PLAIN, {"prompt": ["a", "b"]}, "prompt"),
        (PLAIN, {"prompt": [[1], [2]]}, "prompt"),
        (PLAIN, {"prompt": 5}, "prompt"),
        (PLAIN, {"logprobs": 21}, "logprobs"),
        (PLAIN, {"min_p": 1.5}, "min_p"),
    ],
)
def test_wrong_values_name_their_parameter(
    bench: ApiBench, path: str, fields: dict[str, Any], param: str
) -> None:
    response = post(bench, path, **fields)
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == param
    assert bench.engine.submitted == []


def test_missing_fields(bench: ApiBench) -> None:
    response = httpx.post(bench.url + CHAT, json={"messages": HELLO}, trust_env=False)
    assert response.status_code == 400
    assert (error_of(response)["param"], error_of(response)["code"]) == ("model", "missing_parameter")


@pytest.mark.parametrize("path", [CHAT, PLAIN])
def test_another_model_is_not_found_and_ours_is_named(bench: ApiBench, path: str) -> None:
    response = post(bench, path, model="gpt-4o")
    assert response.status_code == 404
    error = error_of(response)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert MODEL in error["message"]


@pytest.mark.parametrize(
    ("content", "content_type", "code"),
    [
        (b'{"model": ', "application/json", "invalid_json"),
        (b'{"model": "\xff\xfe"}', "application/json", "invalid_json"),
        (b"[1, 2]", "application/json", "invalid_body"),
        (b"", "application/json", "invalid_body"),
        (b'{"model": "x"}', "text/plain", "invalid_body"),
        (b"[" * 4000, "application/json", "invalid_json"),
    ],
)
def test_bodies_that_are_no_json_object(
    bench: ApiBench, content: bytes, content_type: str, code: str
) -> None:
    response = httpx.post(
        bench.url + CHAT, content=content, headers={"Content-Type": content_type}, trust_env=False
    )
    assert response.status_code == 400
    assert error_of(response)["code"] == code


def test_a_body_over_the_cap_is_refused_with_and_without_its_length(bench: ApiBench) -> None:
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x" * SMALL_BODY}]}).encode()
    chunks = (body[start : start + 1000] for start in range(0, len(body), 1000))
    for content in (body, chunks):
        headers = {"Content-Type": "application/json"}
        response = httpx.post(bench.url + CHAT, content=content, headers=headers, trust_env=False)
        assert response.status_code == 413
        error_of(response)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/other", 404),
    ],
)
def test_routes_that_are_not_there(bench: ApiBench, method: str, path: str, status: int) -> None:
    response = httpx.request(method, bench.url + path, trust_env=False)
    assert response.status_code == status
    error_of(response)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["submit", "before the first token"])
def test_not_covered_is_503_with_retry_after(bench: ApiBench, where: str, stream: bool) -> None:
    error = NotCoveredError("layer 1 expert 2 has no host", retry_after_s=6.2)
    if where == "submit":
        bench.engine.refusal = error
    else:
        bench.engine.script = [Fail(error)]
    response = post(bench, CHAT, stream=stream)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "7"
    assert error_of(response)["code"] == "experts_not_covered"
    assert "layer 1 expert 2" in error_of(response)["message"]


def test_an_engine_that_closes_is_503_and_speaks_of_no_experts(bench: ApiBench) -> None:
    bench.engine.refusal = closed_error()
    response = post(bench, CHAT)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert error_of(response)["code"] == "unavailable"


def test_overload_is_503_with_retry_after(bench: ApiBench) -> None:
    bench.engine.refusal = OverloadedError("64 requests wait already", retry_after_s=3)
    response = post(bench, PLAIN)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "3")
    assert error_of(response)["code"] == "overloaded"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_over_the_context(bench: ApiBench, stream: bool) -> None:
    bench.engine.refusal = PromptTooLongError("the prompt has 600 tokens, the context 512", param="prompt")
    response = post(bench, CHAT, stream=stream)
    assert response.status_code == 400
    error = error_of(response)
    assert error["code"] == "context_length_exceeded"
    assert "600" in error["message"]
    assert "512" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_unforeseen_error_is_500_without_a_trace(
    bench: ApiBench, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bench.engine.refusal = ZeroDivisionError("secret detail")
    response = post(bench, CHAT, stream=stream)
    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"
    assert "secret detail" not in response.text
    assert "secret detail" in caplog.text


def test_messages_that_the_template_refuses() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with api_bench(ScriptedEngine(Finish()), tokenizer=tokenizer) as bench:
        response = post(bench, CHAT)
    assert response.status_code == 400
    assert error_of(response)["param"] == "messages"
    assert "roles must alternate" in error_of(response)["message"]


def test_a_model_without_a_chat_template_completes_but_does_not_chat() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with api_bench(ScriptedEngine(Finish()), tokenizer=tokenizer) as bench:
        refused, completed = post(bench, CHAT), post(bench, PLAIN)
    assert refused.status_code == 400
    assert error_of(refused)["code"] == "no_chat_template"
    assert "/v1/completions" in error_of(refused)["message"]
    assert completed.status_code == 200
