"""The terminal chat keeps a history, and survives interrupted answers and errors."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest

from folkmoot.client import FolkmootClient
from folkmoot.client.chat import TerminalChat
from folkmoot.coordinator.engine.faults import OverloadedError
from folkmoot.tests.support.api_bench import ApiBench, api_bench
from folkmoot.tests.support.scripted_engine import Finish, Hold, Say, ScriptedEngine
from folkmoot.tests.support.tiny_models import tiny_tokenizer

WAIT_S = 20.0


@pytest.fixture
def bench() -> Iterator[ApiBench]:
    with api_bench(ScriptedEngine(Say("Blue"), Finish())) as bench:
        yield bench


class Interrupting(io.StringIO):
    """An output at which the user presses Ctrl-C when something is shown."""

    def write(self, text: str) -> int:
        super().write(text)
        raise KeyboardInterrupt


class Typed:
    """What a user types, line by line; what comes before a line may be a deed."""

    def __init__(self, *lines: str | Callable[[], None]) -> None:
        self._lines = list(lines)

    def __call__(self, prompt: str) -> str:
        while self._lines:
            line = self._lines.pop(0)
            if isinstance(line, str):
                return line
            line()
        raise EOFError


def talk(
    bench: ApiBench, *lines: str | Callable[[], None], output: io.StringIO | None = None
) -> tuple[TerminalChat, str, str]:
    output, notices = output or io.StringIO(), io.StringIO()
    with FolkmootClient(bench.url) as client:
        chat = TerminalChat(
            client, read_line=Typed(*lines), output=output, notices=notices, system="Be brief."
        )
        chat.run()
    return chat, output.getvalue(), notices.getvalue()


def prompt_of(bench: ApiBench, index: int) -> str:
    return str(tiny_tokenizer().decode(bench.engine.submitted[index].prompt_ids, skip_special_tokens=True))


def test_history_goes_along_until_it_is_forgotten(bench: ApiBench) -> None:
    chat, output, notices = talk(bench, "one", "", "two", "/new", "/help", "three", "/quit", "never")
    assert output == "Blue\n" * 3
    assert prompt_of(bench, 1) == "Be brief.oneBluetwo"
    assert prompt_of(bench, 2) == "Be brief.three"
    assert [message["role"] for message in chat.history] == ["system", "user", "assistant"]
    assert "2 nodes, 3 results verified" in notices
    assert len(bench.engine.submitted) == 3


def test_an_interrupt_stops_the_answer_and_keeps_what_came(bench: ApiBench) -> None:
    bench.engine.script = [Say("Half"), Hold()]
    chat, _, notices = talk(bench, "one", output=Interrupting())
    assert bench.engine.submitted[0].cancelled.wait(WAIT_S)
    assert "stopped" in notices
    assert chat.history[-1] == {"role": "assistant", "content": "Half"}


def test_an_error_ends_the_turn_only(bench: ApiBench) -> None:
    def overload() -> None:
        bench.engine.refusal = OverloadedError("too many wait", retry_after_s=2)

    def recover() -> None:
        bench.engine.refusal = None

    chat, output, notices = talk(bench, overload, "one", recover, "two")
    assert "error: too many wait" in notices
    assert output == "Blue\n"
    assert [message["content"] for message in chat.history] == ["Be brief.", "two", "Blue"]
