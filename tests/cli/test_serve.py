"""`folkmoot coordinator serve`: what it prints for programs, and what keeps it from starting."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from folkmoot.cli.main import run
from folkmoot.client import FolkmootClient
from folkmoot.models.prepare import prepare
from folkmoot.tests.support.tiny_models import tiny_checkpoint
from folkmoot.trust.invite import Invite

COMMAND = [sys.executable, "-P", "-m", "folkmoot.cli.main", "coordinator", "serve"]
FREE_PORTS = ["--port", "0", "--api-port", "0"]
WAIT_S = 60.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return prepare(str(tiny_checkpoint("mixtral", folder / "checkpoint")), folder / "tiny").folder


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that run inside the tests' process must not configure its logging."""
    monkeypatch.setattr("folkmoot.cli.coordinator.configure_logging", lambda form: None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_lines_for_programs_then_a_clean_end(model: Path, tmp_path: Path, number: signal.Signals) -> None:
    arguments = ["--model", str(model), "--state", str(tmp_path), *FREE_PORTS]
    as_json = number == signal.SIGTERM
    process = subprocess.Popen(
        [*COMMAND, *arguments, *(["--json"] if as_json else [])],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if as_json:
        ready = json.loads(process.stdout.readline())
    else:
        ready = dict(process.stdout.readline().split() for _ in range(2))
    assert set(ready) == {"api", "invite"}
    assert Invite.parse(ready["invite"]).host == "127.0.0.1"
    with FolkmootClient(ready["api"]) as client:
        assert client.models() == ["tiny"]
        assert client.health() == {"status": "ok", "covered": False}
    process.send_signal(number)
    rest, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, rest) == (128 + number, "")
    assert "Traceback" not in err


@pytest.mark.parametrize("flag", ["--port", "--api-port"])
def test_a_port_in_use(model: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(["coordinator", "serve", "--model", str(model), *FREE_PORTS, flag, port]) == 7
    one_line(capsys, port, f"name another with {flag}")


@pytest.mark.parametrize("host", ["two words", "moot.example:7440"])
def test_a_public_host_that_no_invite_can_hold(
    model: Path, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["coordinator", "serve", "--model", str(model), *FREE_PORTS, "--public-host", host]) == 2
    one_line(capsys, host, "no port")


def test_no_such_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["coordinator", "serve", "--model", "/nowhere", *FREE_PORTS]) == 3
    one_line(capsys, "/nowhere", "folkmoot model prepare")


def test_a_model_whose_signature_is_wrong(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    manifest = json.loads((copy / "source.json").read_text())["manifest"]
    signature = {"manifest": manifest, "key": "11" * 32, "signature": "00" * 64}
    (copy / "manifest.sig").write_text(json.dumps(signature))
    assert run(["coordinator", "serve", "--model", str(copy), *FREE_PORTS]) == 4
    one_line(capsys, "not signed by the key that it names", "folkmoot model prepare")


def one_line(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: "), captured.err
    assert captured.err.count("\n") == 1, captured.err
    for word in words:
        assert word in captured.err
