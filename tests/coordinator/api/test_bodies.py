"""Bodies are weighed before they are parsed, and long ones parsed off the event loop: none makes links wait, however it is made."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

import httpx
import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from folkmoot.coordinator.api import bodies, create_app
from folkmoot.coordinator.api.bodies import MAX_NESTED, MAX_STRINGS, MAX_VALUES, parse
from folkmoot.coordinator.api.errors import RequestError
from folkmoot.coordinator.api.requests import ChatRequest, CompletionRequest
from folkmoot.tests.support.api_bench import MODEL, api_bench
from folkmoot.tests.support.scripted_engine import Finish, Say, ScriptedEngine
from folkmoot.tests.support.tiny_models import tiny_tokenizer

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
    max_leaves=20,
)


def completion(prompt: object) -> bytes:
    return json.dumps({"model": "m", "prompt": prompt}).encode()


def weight(document: object) -> tuple[int, int, int]:
    """How many strings, lists or objects, and further values a document has."""
    if isinstance(document, str):
        return 1, 0, 0
    if not isinstance(document, list | dict):
        return 0, 0, 0
    parts = list(document) if isinstance(document, list) else [*document, *document.values()]
    strings, nested, values = map(sum, zip(*map(weight, parts), strict=True)) if parts else (0, 0, 0)
    return strings, nested + 1, values + max(0, len(document) - 1)


@given(document=documents, ascii_only=st.booleans())
def test_a_body_is_weighed_as_it_would_be_parsed(document: object, ascii_only: bool) -> None:
    whole = {"model": "m", "prompt": "p", "other": document}
    data = json.dumps(whole, ensure_ascii=ascii_only).encode("utf-8", "replace")
    limits = dict(zip(("MAX_STRINGS", "MAX_NESTED", "MAX_VALUES"), weight(whole), strict=True))
    with pytest.MonkeyPatch.context() as patched:
        for name, count in limits.items():
            patched.setattr(bodies, name, count)
        assert parse(data, CompletionRequest).model == "m"
        for name, count in limits.items():
            patched.setattr(bodies, name, count - 1)
            with pytest.raises(RequestError, match=f"has {count} .*at most {count - 1}"):
                parse(data, CompletionRequest)
            patched.setattr(bodies, name, count)


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        ([[]] * (MAX_NESTED + 1), "lists and objects"),
        ([{}] * (MAX_NESTED + 1), "lists and objects"),
        (["a"] * (MAX_STRINGS + 1), "strings"),
        ([1] * (MAX_VALUES + 3), "values"),
        (['\\"[[[['] * (MAX_STRINGS + 1), "strings"),
    ],
)
def test_a_body_of_too_many_parts_is_refused_unparsed(
    prompt: object, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = completion(prompt)
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("it was parsed"))
    with pytest.raises(RequestError, match=f"{what}, and this server takes at most") as caught:
        parse(data, CompletionRequest)
    assert (caught.value.status, caught.value.code) == (413, "body_too_large")


def test_long_prompts_pass() -> None:
    assert parse(completion("[" * 5_000_000), CompletionRequest).prompt == "[" * 5_000_000
    assert parse(completion([1] * MAX_VALUES), CompletionRequest).prompt == [1] * MAX_VALUES


def test_an_encoding_that_would_be_weighed_wrongly_is_refused() -> None:
    with pytest.raises(Exception, match="400"):
        parse(completion("x").decode().encode("utf-16"), CompletionRequest)
    assert parse(b"\xef\xbb\xbf" + completion("x"), CompletionRequest).prompt == "x"


@pytest.mark.parametrize(
    "data",
    [
        completion([None] * 10_000),
        completion([*[1] * 10_000, None]),
        completion([[1]] * 10_000 + [[None]]),
        completion(["a"] * 10_000 + [1]),
        json.dumps({"model": "m", "messages": [{}] * 10_000}).encode(),
        json.dumps({"model": "m", "messages": [{"role": "user", "content": [[]] * 10_000}]}).encode(),
    ],
)
def test_of_a_long_list_only_the_first_fault_is_told(data: bytes) -> None:
    with pytest.raises(RequestValidationError) as caught:
        parse(data, ChatRequest if b"messages" in data else CompletionRequest)
    assert len(caught.value.errors()) <= 8


@pytest.mark.parametrize(("length", "on_the_loop"), [(100, True), (100_000, False)])
def test_long_bodies_are_parsed_beside_the_event_loop(
    length: int, on_the_loop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def seen(data: bytes, kind: Any) -> Any:
        threads.append(threading.current_thread().name)
        return parse(data, kind)

    monkeypatch.setattr(bodies, "parse", seen)
    with api_bench(ScriptedEngine(Say("a"), Finish())) as bench:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x" * length}]}
        reply = httpx.post(f"{bench.url}/v1/chat/completions", json=body, trust_env=False)
    assert reply.status_code == 200
    assert len(threads) == 1
    assert threads[0].startswith("asyncio_") is not on_the_loop


async def test_a_client_that_leaves_before_its_body_is_whole_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = create_app(ScriptedEngine(Finish()), tiny_tokenizer(), MODEL, dict, CollectorRegistry())
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"", "headers": []}
    await app(scope, receive, send)
    assert sent[0]["status"] == 400
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
