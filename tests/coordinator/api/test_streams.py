"""Streams at the level of bytes: comments while waiting, errors in mid-stream, and clients that hang up."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from folkmoot.coordinator.api import ApiSettings
from folkmoot.coordinator.engine.faults import NotCoveredError
from folkmoot.tests.support.api_bench import MODEL, ApiBench, api_bench
from folkmoot.tests.support.scripted_engine import Fail, Finish, Hold, Say, ScriptedEngine

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": True}
WAIT_S = 20.0


def impatient() -> ApiSettings:
    return ApiSettings(keep_alive_s=0.05, first_token_wait_s=0.2)


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=WAIT_S) as client:
        yield client


def test_silence_is_filled_with_comments(client: httpx.Client) -> None:
    hold = Hold()
    with api_bench(ScriptedEngine(Say("a"), hold, Say("b"), Finish()), settings=impatient()) as bench:
        with client.stream("POST", bench.url + CHAT, json=BODY) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines, comments = [], 0
            for line in response.iter_lines():
                lines.append(line)
                comments += line.startswith(":")
                if comments == 3:
                    hold.go.set()
    assert comments >= 3
    assert all(line == "" or line.startswith((":", "data: ")) for line in lines)
    assert lines[-2:] == ["data: [DONE]", ""]


def test_the_first_token_is_waited_for_but_not_for_ever(client: httpx.Client) -> None:
    hold = Hold()
    with api_bench(
        ScriptedEngine(hold, Fail(NotCoveredError("gone", retry_after_s=1))), settings=impatient()
    ) as bench:
        with client.stream("POST", bench.url + CHAT, json=BODY) as response:
            assert response.status_code == 200
            lines = response.iter_lines()
            assert any(line.startswith(":") for line in lines)
            hold.go.set()
            last = [line for line in lines if line.startswith("data:")][-1]
    assert json.loads(last[6:])["error"]["code"] == "experts_not_covered"


def test_an_error_in_mid_stream_is_a_data_line(client: httpx.Client) -> None:
    failure = NotCoveredError("layer 0 expert 1 has no host", retry_after_s=5)
    with api_bench(ScriptedEngine(Say("a"), Fail(failure))) as bench:
        response = client.post(bench.url + CHAT, json=BODY)
    assert response.status_code == 200
    lines = [line for line in response.text.splitlines() if line]
    assert all(line.startswith("data: {") for line in lines)
    error = json.loads(lines[-1][6:])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "layer 0 expert 1" in error["message"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("begun", [True, False])
def test_a_client_that_hangs_up_cancels_its_generation(stream: bool, begun: bool) -> None:
    script = (Say("a"), Hold(), Finish()) if begun else (Hold(), Finish())
    with api_bench(ScriptedEngine(*script)) as bench:
        hang_up(bench, stream=stream, read_first=stream and begun)
        assert bench.engine.submitted[0].cancelled.wait(WAIT_S)
        bench.engine.script = [Say("b"), Finish()]
        whole = httpx.post(bench.url + CHAT, json={**BODY, "stream": False}, trust_env=False)
    assert whole.json()["choices"][0]["message"]["content"] == "b"


def hang_up(bench: ApiBench, *, stream: bool, read_first: bool) -> None:
    """Sends a request over a plain socket, and closes it once the engine has the prompt."""
    address = httpx.URL(bench.url)
    body = json.dumps({**BODY, "stream": stream}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((address.host, address.port or 80), timeout=WAIT_S) as connection:
        connection.sendall(head.encode() + body)
        assert bench.engine.arrived.wait(WAIT_S)
        if read_first:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_complete_answer_is_not_cancelled(client: httpx.Client) -> None:
    with api_bench(ScriptedEngine(Say("a"), Finish())) as bench:
        assert client.post(bench.url + CHAT, json=BODY).text.endswith("data: [DONE]\n\n")
        submitted = bench.engine.submitted[0]
    assert submitted.generation.ended
    assert not submitted.cancelled.is_set()


def test_a_generation_that_the_engine_drops_is_an_error(client: httpx.Client) -> None:
    hold = Hold()
    with api_bench(ScriptedEngine(Say("a"), hold)) as bench:
        with client.stream("POST", bench.url + CHAT, json=BODY) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data:")
            bench.engine.submitted[0].generation.cancel()
            last = [line for line in lines if line.startswith("data:")][-1]
    assert "broke off" in json.loads(last[6:])["error"]["message"]
