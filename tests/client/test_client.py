"""The client gets answers and the network's state from a live API, and turns every failure into an error with advice."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from folkmoot.client import FolkmootClient
from folkmoot.client.api import resolve_url
from folkmoot.client.errors import NotServedError, ProtocolError, RefusedError, UnreachableError
from folkmoot.coordinator.engine.faults import NotCoveredError
from folkmoot.errors import FolkmootError, UsageError
from folkmoot.tests.support.api_bench import MODEL, ApiBench, api_bench
from folkmoot.tests.support.scripted_engine import Fail, Finish, Hold, Say, ScriptedEngine

HELLO = [{"role": "user", "content": "hello"}]
WAIT_S = 20.0


@pytest.fixture
def bench() -> Iterator[ApiBench]:
    with api_bench(ScriptedEngine(Say("Blue"), Say(" sky"), Finish())) as bench:
        yield bench


def test_an_answer_with_its_accounting(bench: ApiBench) -> None:
    with FolkmootClient(bench.url) as client:
        answer = client.chat(HELLO, max_tokens=9, temperature=0, seed=3)
        assert "".join(answer) == "Blue sky"
    assert answer.finish_reason == "stop"
    assert answer.usage["completion_tokens"] == 3
    assert answer.accounting["results_verified"] == 5
    assert answer.tokens_per_second > 0
    sampling = bench.engine.submitted[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.seed) == (9, 0, 3)


def test_what_the_network_tells(bench: ApiBench) -> None:
    with FolkmootClient(bench.url + "/v1/") as client:
        assert client.models() == [MODEL]
        assert client.network() == bench.network
        assert client.health()["covered"] is True


def test_closing_an_answer_cancels_it(bench: ApiBench) -> None:
    bench.engine.script = [Say("a"), Hold()]
    with FolkmootClient(bench.url) as client, client.chat(HELLO) as answer:
        assert next(iter(answer)) == "a"
    assert bench.engine.submitted[0].cancelled.wait(WAIT_S)


def test_errors_keep_the_servers_words(bench: ApiBench) -> None:
    with FolkmootClient(bench.url) as client:
        bench.engine.refusal = NotCoveredError("layer 1 expert 2 has no host", retry_after_s=8)
        with pytest.raises(NotServedError, match="layer 1 expert 2.*ask again in 8 s") as unserved:
            client.chat(HELLO)
        assert unserved.value.retry_after_s == 8
        bench.engine.refusal = None
        with pytest.raises(RefusedError, match="messages\\[0\\].role") as refused:
            client.chat([{"role": "judge", "content": "x"}])
        assert refused.value.param == "messages[0].role"
        bench.engine.script = [Say("a"), Fail(NotCoveredError("layer 0 expert 3 is gone", retry_after_s=1))]
        with pytest.raises(NotServedError, match="layer 0 expert 3"):
            "".join(client.chat(HELLO))


@contextmanager
def raw_server(answer: bytes) -> Iterator[str]:
    """Answers one connection with these bytes and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            # Unread bytes at the close would reset the connection before the client has read the answer.
            while connection.recv(65536):
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        thread.join(WAIT_S)
        listener.close()


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (HEAD + b"Content-Length: 5\r\n\r\nhello", ProtocolError),
        (HEAD + b"Content-Length: 2\r\n\r\n[]", ProtocolError),
        (HEAD + b"Content-Length: 2\r\n\r\n{}", ProtocolError),
        (HEAD + b'Content-Length: 9\r\n\r\n{"a": 1', UnreachableError),
        (b"HTTP/1.1 500 Oh\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", ProtocolError),
        (b"", UnreachableError),
    ],
)
def test_something_else_at_the_url(answer: bytes, kind: type[FolkmootError]) -> None:
    with raw_server(answer) as url, FolkmootClient(url) as client, pytest.raises(kind):
        client.network()


@pytest.mark.parametrize(
    "answer", [b"{}", b'{"data": [1]}', b'{"data": [{}]}', b'{"data": []}', b'{"data": null}']
)
def test_a_list_of_models_that_is_none(answer: bytes) -> None:
    whole = HEAD + b"Content-Length: %d\r\n\r\n" % len(answer) + answer
    with raw_server(whole) as url, FolkmootClient(url) as client, pytest.raises(ProtocolError, match=url):
        client.chat(HELLO)


def test_text_that_cannot_be_sent_is_refused_before_it_is_sent() -> None:
    with FolkmootClient("http://127.0.0.1:9") as client, pytest.raises(UsageError, match="UTF-8"):
        client.chat([{"role": "user", "content": "half \ud800"}], model=MODEL)


STREAM = HEAD + b"Content-Type: text/event-stream\r\n"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (STREAM + b'\r\ndata: {"choices": [{"delta": {"content": "a"}}]}\n\n', ProtocolError),
        (STREAM + b"\r\ndata: nonsense\n\n", ProtocolError),
        (STREAM + b"\r\ndata: [1]\n\n", ProtocolError),
        (STREAM + b'\r\ndata: {"choices": [1]}\n\n', ProtocolError),
        (STREAM + b'\r\ndata: {"choices": [{"delta": null}]}\n\n', ProtocolError),
        (STREAM + b"Content-Length: 900\r\n\r\n: waiting\n\n", UnreachableError),
    ],
)
def test_streams_that_break_off(answer: bytes, kind: type[FolkmootError]) -> None:
    with raw_server(answer) as url, FolkmootClient(url) as client, pytest.raises(kind):
        "".join(client.chat(HELLO, model=MODEL))


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with FolkmootClient(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(UnreachableError, match=f"127.0.0.1:{port}.*folkmoot demo"):
            client.network()


def test_which_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOLKMOOT_URL", raising=False)
    assert str(resolve_url(None)) == "http://127.0.0.1:8000"
    monkeypatch.setenv("FOLKMOOT_URL", "https://moot.example/v1")
    assert str(resolve_url(None)) == "https://moot.example"
    assert str(resolve_url("http://[::1]:9000/")) == "http://[::1]:9000"


@pytest.mark.parametrize("wrong", ["localhost:8000", "ftp://host", "http://", "http://a:port", "moot"])
def test_what_is_no_url(wrong: str) -> None:
    with pytest.raises(UsageError, match="give one like"):
        resolve_url(wrong)


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    bench: ApiBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with FolkmootClient(bench.url) as client:
        assert client.models() == [MODEL]
