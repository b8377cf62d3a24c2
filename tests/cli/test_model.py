"""`folkmoot model`: what it prints, what it refuses, and who signs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from folkmoot.cli.main import run
from folkmoot.tests.support.tiny_models import tiny_checkpoint
from folkmoot.trust.keys import Identity


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("mixtral", tmp_path_factory.mktemp("checkpoint") / "tiny-mixtral")


def test_prepare_then_inspect(
    checkpoint: Path, tmp_path: Path, _isolated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "prepared"
    assert run(["model", "prepare", str(checkpoint), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n"
    assert "16 experts" in captured.err
    assert run(["model", "inspect", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert captured.err == ""
    assert (facts["name"], facts["family"], facts["layers"], facts["experts"]) == (
        "prepared",
        "mixtral",
        2,
        16,
    )
    assert (facts["top_k"], facts["sliced"], facts["layout"], facts["format"]) == (
        2,
        False,
        "separate",
        "float32",
    )
    assert facts["bytes"] == 16 * 3 * 64 * 48 * 4
    operator = Identity.load_or_create(_isolated / "operator" / "identity.key")
    assert (facts["signed_by"], facts["signature"]) == (operator.public.hex(), "valid")
    assert run(["model", "inspect", str(out)]) == 0
    text = capsys.readouterr().out
    for word in ("mixtral", facts["digest"], facts["signed_by"], "(valid)", "16, 2 a token"):
        assert word in text


def test_where_it_is_published_is_shown(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, place = str(tmp_path / "prepared"), f"owner/name@{'ab' * 20}"
    assert run(["model", "prepare", str(checkpoint), "--out", out, "--published-at", place]) == 0
    assert run(["model", "inspect", out]) == 0
    assert f"published  {place}" in capsys.readouterr().out
    assert run(["model", "prepare", str(checkpoint), "--out", out, "--published-at", "owner/name@main"]) == 2
    assert "pins no revision" in capsys.readouterr().err


def test_a_signature_that_is_not_the_manifests_is_told(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "prepared"
    assert run(["model", "prepare", str(checkpoint), "--out", str(out)]) == 0
    signature = json.loads((out / "manifest.sig").read_text())
    signature["signature"] = "00" * 64
    (out / "manifest.sig").write_text(json.dumps(signature))
    capsys.readouterr()
    assert run(["model", "inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signature"] == "wrong"


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["prepare", "/nowhere/model"], 3, "/nowhere/model"),
        (["prepare", "owner/model"], 3, "hf download owner/model"),
        (["inspect", "/nowhere/model"], 3, "folkmoot model prepare"),
        (["inspect", "/tmp"], 3, "holds no prepared model"),
    ],
)
def test_what_is_no_model(
    arguments: list[str], code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["model", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert captured.err.splitlines()[-1].startswith("error: ")
    assert word in captured.err
