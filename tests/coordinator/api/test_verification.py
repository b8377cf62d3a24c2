"""Requests say how their answers are to be checked; answers say how they were, and what came of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from folkmoot.coordinator.engine.delivery import Delivery, Verification
from folkmoot.coordinator.engine.faults import NotAuditedError
from folkmoot.tests.support.api_bench import MODEL, ApiBench, api_bench
from folkmoot.tests.support.scripted_engine import Finish, Hold, Say, ScriptedEngine

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiBench]:
    with api_bench(ScriptedEngine()) as bench:
        yield bench


@pytest.fixture
def bench(shared: ApiBench) -> ApiBench:
    shared.engine.script, shared.engine.refusal = [Say("Blue"), Say(" sky"), Finish(text=".")], None
    shared.engine.submitted.clear()
    return shared


@pytest.fixture
def client(bench: ApiBench) -> Iterator[Any]:
    # Any: its types want literal values where tests go through parameters.
    with openai.OpenAI(base_url=f"{bench.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: Any, kind: str, stream: bool, extra: Any) -> tuple[str, dict[str, Any]]:
    """The text of an answer, and its object `folkmoot`."""
    wishes = {"model": MODEL, "stream": stream, "extra_body": extra}
    if kind == "chat":
        answer = client.chat.completions.create(messages=HELLO, **wishes)
    else:
        answer = client.completions.create(prompt="hello", **wishes)
    if not stream:
        choice = answer.choices[0]
        return (choice.message.content if kind == "chat" else choice.text), answer.model_extra["folkmoot"]
    chunks = list(answer)
    pieces = [chunk.choices[0].delta.content if kind == "chat" else chunk.choices[0].text for chunk in chunks]
    return "".join(piece or "" for piece in pieces), chunks[-1].model_extra["folkmoot"]


@pytest.mark.parametrize("kind", ["chat", "text"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("extra", "wanted"),
    [
        ({}, Verification.SIGNED),
        ({"folkmoot": None}, Verification.SIGNED),
        ({"folkmoot": {}}, Verification.SIGNED),
        ({"folkmoot": {"verify": None}}, Verification.SIGNED),
        ({"folkmoot": {"verify": "signed"}}, Verification.SIGNED),
        ({"folkmoot": {"verify": "audited"}}, Verification.AUDITED),
    ],
    ids=str,
)
def test_the_engine_is_told_and_the_answer_says(
    client: Any, bench: ApiBench, kind: str, stream: bool, extra: Any, wanted: Verification
) -> None:
    text, told = ask(client, kind, stream, extra)
    assert text == "Blue sky."
    assert told["verify"] == wanted.value
    (submitted,) = bench.engine.submitted
    assert submitted.delivery == Delivery(wanted, whole=not stream)


@pytest.mark.parametrize("kind", ["chat", "text"])
@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ("audited", "folkmoot"),
        ([], "folkmoot"),
        ({"verify": "AUDITED"}, "folkmoot.verify"),
        ({"verify": True}, "folkmoot.verify"),
        ({"verify": ["audited"]}, "folkmoot.verify"),
        ({"verified": "audited"}, "folkmoot.verified"),
    ],
    ids=str,
)
def test_anything_else_is_refused(client: Any, bench: ApiBench, kind: str, wish: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, kind, False, {"folkmoot": wish})
    assert caught.value.param == param
    assert not bench.engine.submitted


def test_where_nothing_is_audited_that_is_said(client: Any, bench: ApiBench) -> None:
    bench.engine.refusal = NotAuditedError(
        "this coordinator audits nothing", param="folkmoot.verify", advice='ask for "signed"'
    )
    with pytest.raises(openai.BadRequestError, match="audits nothing") as caught:
        ask(client, "chat", True, {"folkmoot": {"verify": "audited"}})
    assert (caught.value.param, caught.value.code) == ("folkmoot.verify", "audits_disabled")


def test_what_could_not_be_recalled_is_said(client: Any, bench: ApiBench) -> None:
    hold = Hold()
    bench.engine.script = [Say("Green"), hold, Say(" sky"), Finish()]
    stream = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    chunks = [next(stream), next(stream)]
    generation = bench.engine.submitted[0].generation
    assert generation.rewind(0) == 1
    hold.go.set()
    chunks += stream
    assert chunks[1].choices[0].delta.content == "Green"
    told = chunks[-1].model_extra["folkmoot"]
    assert (told["rewound"], told["suspect_tokens"]) == (True, [[0, 1]])


def test_what_is_not_streamed_can_be_recalled_to_its_end(client: Any, bench: ApiBench) -> None:
    hold = Hold()
    bench.engine.script = [Say("Green"), hold, Say("Blue"), Finish()]

    def recall() -> None:
        bench.engine.arrived.wait(10)
        generation = bench.engine.submitted[0].generation
        while not generation.completion_tokens:
            hold.go.wait(0.005)
        assert generation.rewind(0) == 0
        hold.go.set()

    bench.engine.arrived.clear()
    thread = threading.Thread(target=recall)
    thread.start()
    text, told = ask(client, "chat", False, {})
    thread.join()
    assert (text, told["rewound"], told["suspect_tokens"]) == ("Blue", True, [])
