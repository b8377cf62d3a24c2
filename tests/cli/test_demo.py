"""The demo end to end on a tiny model: real processes, TLS, signatures; and nothing of it is left, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import psutil
import pytest
from openai.types.chat import ChatCompletionMessageParam

from folkmoot.cli.demo import DEFAULT_MODEL, PREPARED_MARK
from folkmoot.client import FolkmootClient
from folkmoot.coordinator.engine.settings import EngineSettings
from folkmoot.models.default_model import DEFAULT_NAME
from folkmoot.models.prepare import prepare
from folkmoot.models.prepared import MANIFEST
from folkmoot.tests.support.tiny_models import tiny_checkpoint

COMMAND = [sys.executable, "-P", "-m", "folkmoot.cli.main", "demo"]
FIELDS = {
    "answer",
    "prompt_tokens",
    "completion_tokens",
    "tokens_per_second",
    "nodes",
    "experts",
    "results_signed",
    "results_verified",
    "results_rejected",
}
WAIT_S = 120.0
LAYERS = 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all tests here: nodes keep what they have downloaded."""
    return tmp_path_factory.mktemp("demo-home")


@pytest.fixture(scope="module")
def prepared(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "tiny"
    return prepare(str(checkpoint), folder).folder


@pytest.fixture(autouse=True)
def no_process_is_left(home: Path) -> Iterator[None]:
    yield
    until(lambda: not processes_of(home))


def processes_of(home: Path) -> list[psutil.Process]:
    """Every process that runs with this home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FOLKMOOT_HOME") == str(home) and process.pid != os.getpid():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "FOLKMOOT_HOME": str(home)}
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_json_has_the_fields_and_adds_up(home: Path, checkpoint: Path) -> None:
    process = start(home, "--model", str(checkpoint), "--json", "--prompt", "hello")
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
    result = json.loads(out)
    assert set(result) == FIELDS
    assert result["nodes"] == 3
    assert result["experts"] == LAYERS * 8
    assert result["prompt_tokens"] == len("hello") + 4
    assert result["completion_tokens"] >= 1
    assert result["results_rejected"] == 0
    assert result["results_verified"] == result["results_signed"]
    # One step may bring a token and all of its drafts; each step asks each layer at least once.
    most_tokens_a_step = 1 + EngineSettings().max_draft_tokens
    assert result["results_verified"] * most_tokens_a_step >= LAYERS * result["completion_tokens"]
    if result["completion_tokens"] > 1:
        assert result["tokens_per_second"] > 0
    assert "experts hosted" in err


def test_a_served_network_outlives_a_node_but_not_its_coordinator(home: Path, prepared: Path) -> None:
    process = start(home, "--model", str(prepared), "--nodes", "2", "--serve")
    assert process.stdout is not None
    lines = list(until_api(process))
    summary, url = "".join(lines), lines[-1].split()[1]
    for word in ("node-1", "node-2", "tokens/s", "verified", "coverage 16 of 16"):
        assert word in summary

    second = start(home, "--model", str(prepared))
    _, err = second.communicate(timeout=WAIT_S)
    assert second.returncode == 2
    assert "runs already" in err

    process_with(home, "node-2").kill()
    with FolkmootClient(url) as client:
        until(lambda: sum(node["state"] == "ready" for node in client.network()["nodes"]) == 1)
        answer = client.chat([{"role": "user", "content": "hello"}], max_tokens=4)
        assert len(list(answer)) <= 4
        assert len(answer.accounting["nodes"]) == 1

    process_with(home, "coordinator").kill()
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 7
    assert "hashing" not in err
    assert "node-2 ended with code -9" in err
    assert err.splitlines()[-1].startswith("error: the coordinator ended with code -9")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_served_network_answers_until_it_is_ended(
    home: Path, prepared: Path, number: signal.Signals
) -> None:
    process = start(home, "--model", str(prepared), "--nodes", "1", "--serve")
    url = list(until_api(process))[-1].split()[1]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        model = next(iter(client.models.list())).id
        hello: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
        answer = client.chat.completions.create(model=model, messages=hello, max_tokens=4, temperature=0)
        assert answer.usage is not None
        assert answer.usage.completion_tokens >= 1
    assert len(processes_of(home)) == 3
    process.send_signal(number)
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in err


def until_api(process: subprocess.Popen[str]) -> Iterator[str]:
    """The lines up to the one with the API's URL."""
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        if line.startswith("api "):
            return
    _, err = process.communicate(timeout=WAIT_S)
    raise AssertionError(f"the demo ended with code {process.returncode} and did not serve: {err}")


def process_with(home: Path, argument: str) -> psutil.Process:
    return next(found for found in processes_of(home) if argument in found.cmdline())


def test_the_default_model_is_the_one_that_prepare_makes() -> None:
    assert (DEFAULT_MODEL, PREPARED_MARK) == (DEFAULT_NAME, MANIFEST)


@pytest.mark.parametrize("manifest", ["{", "[]", "{}", "\udcff"])
def test_a_damaged_manifest_is_a_damaged_model(home: Path, manifest: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(manifest, errors="surrogateescape")
    process = start(home, "--model", str(tmp_path))
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (3, "")
    assert str(tmp_path / MANIFEST) in err.splitlines()[-1]
    assert "folkmoot model prepare" in err.splitlines()[-1]


def test_what_the_coordinator_ends_of_is_what_the_demo_ends_of(prepared: Path, tmp_path: Path) -> None:
    key = tmp_path / "demo" / "coordinator" / "identity.key"
    key.parent.mkdir(parents=True)
    key.write_text("not a key")
    key.chmod(0o600)
    process = start(tmp_path, "--model", str(prepared), "--nodes", "1")
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (4, "")
    assert "the coordinator ended with code 4 (the key file" in err.splitlines()[-1]


def test_no_such_model(home: Path) -> None:
    process = start(home, "--model", "/nowhere/model")
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (3, "")
    assert "/nowhere/model" in err.splitlines()[-1]
    assert "Traceback" not in err
