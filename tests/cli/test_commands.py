"""The commands that talk to a network: what they print and where, and what they end with."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from folkmoot import __version__
from folkmoot.cli import status
from folkmoot.cli.main import UNFORESEEN, run
from folkmoot.coordinator.engine.faults import NotCoveredError
from folkmoot.tests.support.api_bench import MODEL, ApiBench, api_bench
from folkmoot.tests.support.scripted_engine import NODES, Fail, Finish, Say, ScriptedEngine

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def bench() -> Iterator[ApiBench]:
    with api_bench(ScriptedEngine(Say("Blue"), Say(" sky"), Finish())) as bench:
        yield bench


def test_ask_streams_the_answer_and_nothing_else(bench: ApiBench, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ask", "Why?", "--url", bench.url, "--max-tokens", "7", "--temperature", "0"]) == 0
    assert capsys.readouterr() == ("Blue sky\n", "")
    sampling = bench.engine.submitted[0].sampling
    assert (sampling.max_tokens, sampling.temperature) == (7, 0)


def test_ask_reads_standard_input_and_the_url_of_the_environment(
    bench: ApiBench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Why?\n"))
    monkeypatch.setenv("FOLKMOOT_URL", bench.url)
    assert run(["ask", "-"]) == 0
    assert capsys.readouterr().out == "Blue sky\n"


def test_a_cut_answer_is_said_to_be_cut(bench: ApiBench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.engine.script = [Say("Blue"), Finish("length")]
    assert run(["ask", "Why?", "--url", bench.url]) == 0
    captured = capsys.readouterr()
    assert captured.out == "Blue\n"
    assert "cut" in captured.err


def test_status_as_json_is_the_document(bench: ApiBench, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--json", "--url", bench.url]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == bench.network
    assert captured.err == ""


def test_status_for_people(bench: ApiBench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.network["nodes"][1] |= {"state": "lost", "reason": "it is gone", "round_trip_ms": None}
    assert run(["status", "--url", bench.url]) == 0
    out = capsys.readouterr().out
    assert MODEL in out
    assert "4 of 4 experts (100%)" in out
    assert "22 signed, 21 verified, 1 rejected" in out
    assert NODES[0][:12] in out
    assert "lost (it is gone)" in out


def test_status_on_a_terminal_is_a_table(
    bench: ApiBench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    bench.network["nodes"][0]["name"] = "[bold]not markup"
    status.show(bench.network)
    out = capsys.readouterr().out
    assert "┃" in out
    assert "[bold]not markup" in out


def test_chat_reads_lines(
    bench: ApiBench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n/quit\n"))
    assert run(["chat", "--url", bench.url]) == 0
    assert capsys.readouterr().out == "Blue sky\n" * 2


@pytest.mark.parametrize("command", [["ask", "Why?"], ["status"], ["status", "--json"], ["chat"]])
def test_nobody_there(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--url", NOWHERE]) == 7
    captured = capsys.readouterr()
    assert captured.out == ""
    one_line(captured.err, NOWHERE, "folkmoot demo")


def test_a_failure_in_mid_answer(bench: ApiBench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.engine.script = [Say("Bl"), Fail(NotCoveredError("layer 0 expert 1 has no host", retry_after_s=4))]
    assert run(["ask", "Why?", "--url", bench.url]) == 7
    captured = capsys.readouterr()
    assert captured.out.startswith("Bl")
    one_line(captured.err, "layer 0 expert 1")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["ask"], "TEXT"),
        (["ask", "x", "--url", "ftp://host"], "http"),
        (["ask", "x", "--temperature", "9"], "--temperature"),
        (["nonsense"], "nonsense"),
        (["status", "--nonsense"], "--nonsense"),
        (["node"], "command"),
        (["node", "join"], "INVITE"),
        (["node", "join", "nonsense"], "invite"),
        (["node", "join", "folkmoot1-aaaa", "--threads", "0"], "--threads"),
        (["node", "join", "folkmoot1-aaaa", "--memory", "lots"], "4GiB"),
        (["coordinator", "serve"], "--model"),
        (["coordinator", "serve", "--model", "x", "--port", "70000"], "--port"),
        (["coordinator", "serve", "--model", ""], "--model"),
        (["coordinator", "serve", "--model", "x", "--state", ""], "--state"),
        (["coordinator", "ban", "ab", "--state", "/no/such/folder"], "/no/such/folder"),
        (["coordinator", "ban", "ab" * 32, "--state", "/tmp", "--reason", "caf\udce9"], "UTF-8"),
        (["node", "join", "folkmoot1-aaaa", "--state", ""], "--state"),
        (["demo", "--nodes", "0"], "--nodes"),
        (["model", "inspect"], "FOLDER"),
    ],
)
def test_usage_errors_are_one_line_and_2(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert word.lower() in captured.err.lower()
    one_line(captured.err)


def test_an_empty_invite_on_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run(["node", "join", "-"]) == 2
    one_line(capsys.readouterr().err, "invite")


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"folkmoot {__version__}\n"
    assert run([]) == 0
    out = capsys.readouterr().out
    for command in ("demo", "model", "coordinator", "node", "ask", "chat", "status"):
        assert command in out


def test_an_unforeseen_error_is_one_line_unless_debugging(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(text: str | None) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("folkmoot.client.api.resolve_url", broken)
    monkeypatch.setenv("FOLKMOOT_DEBUG", "")
    assert run(["status"]) == UNFORESEEN
    one_line(capsys.readouterr().err, "ZeroDivisionError: two lines", "--debug")
    assert run(["--debug", "status"]) == UNFORESEEN
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_said_to_be_full(bench: ApiBench) -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-P", "-m", "folkmoot.cli.main", "status", "--json", "--url", bench.url],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ran.returncode == 6
    one_line(ran.stderr, "No space left", "free some")


def test_bytes_that_are_no_text_are_refused(bench: ApiBench, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ask", "caf\udce9", "--url", bench.url]) == 2  # how Python shows Latin-1 in an argument
    one_line(capsys.readouterr().err, "UTF-8")
    assert bench.engine.submitted == []


def test_an_interrupt_is_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(text: str | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("folkmoot.client.api.resolve_url", interrupted)
    assert run(["ask", "Why?"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def one_line(text: str, *words: str) -> None:
    """Checks that an error is one line that begins as errors begin, and says these words."""
    assert text.startswith("error: "), text
    assert text.count("\n") == 1, text
    for word in words:
        assert word in text
