"""`folkmoot node` without a network: settings from a dialogue, and coordinators that are remembered and forgotten."""

from __future__ import annotations

import io
import tomllib
from pathlib import Path

import pytest

from folkmoot.cli.main import run
from folkmoot.node.joined import JoinedBook
from folkmoot.node.settings import NodeSettings
from folkmoot.node.wizard import questions
from folkmoot.trust.invite import Invite

INVITE = Invite("moot.example", 7440, bytes(range(32)), bytes(16)).encode()


def test_the_dialogue_takes_enter_for_the_defaults_and_prints_the_file_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = ["kitchen", "", "", "lots", "2GiB", "", "1", "", "", "22:00-07:00"]
    assert len(answers) == len(questions()) + 1  # one is asked twice
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(answers) + "\n"))
    assert run(["node", "init"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{NodeSettings.file()}\n"
    assert "'lots' is no amount of memory" in captured.err
    assert "folkmoot node doctor" in captured.err
    written = tomllib.loads(NodeSettings.file().read_text())
    assert (written["name"], written["public_name"], written["memory_bytes"]) == (
        "kitchen",
        "pseudonym",
        "2GiB",
    )
    assert str(NodeSettings.load().hours) == "22:00-07:00"


def test_a_dialogue_that_breaks_off_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("kitchen\n"))
    assert run(["node", "init"]) == 130
    assert not NodeSettings.file().exists()


def test_a_wrong_option_is_named_before_anything_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["node", "init", "--yes", "--hours", "nights"]) == 2
    assert "22:00-07:00" in capsys.readouterr().err
    assert not NodeSettings.file().exists()


def test_init_says_that_a_file_is_there_and_replaces_it_when_told(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["node", "init", "--yes", "--memory", "1GiB", "--disk", "1GiB"]
    assert run(arguments) == 0
    assert run(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert run([*arguments[:3], "--force", "--memory", "2GiB", "--disk", "3GiB", "--hours", "1:00-2:00"]) == 0
    settings = NodeSettings.load()
    assert (settings.memory_bytes, settings.disk_bytes, str(settings.hours)) == (
        2 << 30,
        3 << 30,
        "01:00-02:00",
    )


def test_coordinators_are_remembered_and_forgotten_while_no_node_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ["--state", str(tmp_path)]
    assert run(["node", "join", INVITE, "--memory", "4GiB", "--later", *state]) == 2
    assert "folkmoot node start" in capsys.readouterr().err
    assert run(["node", "join", INVITE, "--as", "london", "--later", *state]) == 0
    assert capsys.readouterr().out == "joined london\n"
    assert [one.name for one in JoinedBook(tmp_path).all()] == ["london"]
    assert run(["node", "leave", "paris", *state]) == 2
    assert "name one of those that were: london" in capsys.readouterr().err
    assert run(["node", "leave", "moot.example:7440", *state]) == 0
    assert capsys.readouterr().out == "left london\n"
    assert JoinedBook(tmp_path).all() == ()


@pytest.mark.parametrize("command", ["pause", "resume", "drain", "status"])
def test_orders_to_nobody_are_one_line_and_7(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["node", command, "--state", str(tmp_path)]) == 7
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"error: no node runs on the state folder {tmp_path}: start it with" in captured.err
