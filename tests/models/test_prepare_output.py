"""The folder that is prepared into appears whole or not at all, and everything that stands in its way has its own line."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from folkmoot.errors import FolkmootError
from folkmoot.models.prepare import prepare
from folkmoot.models.prepared import PreparedModel
from folkmoot.models.preparing.output_folder import LOCK, NoSpaceError, OutputFolderError, pending_folder
from folkmoot.models.safetensors_header import CheckpointError
from folkmoot.tests.support.tiny_models import tiny_checkpoint
from folkmoot.tests.support.told_progress import ToldProgress


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny_checkpoint("llama", tmp_path / "source")


class Usage(NamedTuple):
    """What `shutil.disk_usage` returns."""

    total: int
    used: int
    free: int


class Interrupting(ToldProgress):
    """Someone presses Ctrl-C when some bytes are done."""

    def advance(self, count: int) -> None:
        super().advance(count)
        raise KeyboardInterrupt


def test_a_folder_that_holds_something_else_is_left_alone(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputFolderError, match=r"out holds something else: name an empty or a new folder"):
        prepare(str(source), out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_is_used(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert prepare(str(source), tmp_path / "out").folder == tmp_path / "out"


def test_a_file_in_the_way(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OutputFolderError, match="out is not a folder"):
        prepare(str(source), tmp_path / "out")
    with pytest.raises(OutputFolderError, match=r"cannot prepare into .*out/below: Not a directory"):
        prepare(str(source), tmp_path / "out" / "below")


def test_a_small_disk_is_seen_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9 - 5000, 5000))
    told = ToldProgress()
    with pytest.raises(NoSpaceError, match=r"has 0\.00 GB free, but 0\.03 GB are needed: free some"):
        prepare(str(source), tmp_path / "out", progress=told)
    assert told.works == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize(
    ("number", "kind", "line"),
    [
        (errno.ENOSPC, NoSpaceError, "the disk of .*out is full: free some space"),
        (errno.EDQUOT, NoSpaceError, "the disk of .*out is full"),
        (errno.EIO, OutputFolderError, "cannot prepare into .*out: Input/output error"),
        (errno.EROFS, OutputFolderError, "cannot prepare into .*out: Read-only file system"),
    ],
)
def test_a_disk_that_fails_while_writing(
    number: int,
    kind: type[FolkmootError],
    line: str,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(kind, match=line):
        prepare(str(source), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_an_interrupted_run_leaves_nothing_and_can_be_repeated(family: str, tmp_path: Path) -> None:
    source, out = tiny_checkpoint(family, tmp_path / "model"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(str(source), out, progress=Interrupting())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    assert prepare(str(source), out).manifest.experts


def test_an_interrupted_replacement_leaves_the_old_model(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    old = prepare(str(source), out, slices=2)
    with pytest.raises(KeyboardInterrupt):
        prepare(str(source), out, slices=4, progress=Interrupting())
    assert PreparedModel.open(out).manifest == old.manifest
    assert prepare(str(source), out, slices=4).manifest.top_k == 4


def test_what_a_killed_run_left_is_cleared(source: Path, tmp_path: Path) -> None:
    left = tmp_path / "out.partial"
    (left / "folder").mkdir(parents=True)
    (left / LOCK).touch()
    (left / "experts-00000.safetensors").write_bytes(b"half")
    (left / "folder" / "file").touch()
    model = prepare(str(source), tmp_path / "out")
    assert not left.exists()
    assert not (model.folder / "folder").exists()
    assert not (model.folder / LOCK).exists()


def test_two_runs_do_not_write_the_same_folder(source: Path, tmp_path: Path) -> None:
    left = tmp_path / "out.partial"
    left.mkdir()
    with (left / LOCK).open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OutputFolderError, match="another process is preparing"):
            prepare(str(source), tmp_path / "out")
        assert (left / LOCK).exists()
    assert prepare(str(source), tmp_path / "out").manifest.experts


def test_a_source_that_cannot_be_read_is_named_and_not_the_folder_to_write(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"gone/model\.safetensors cannot be read .*No such file"
    ) as caught:
        with pending_folder(tmp_path / "out"):
            (tmp_path / "gone" / "model.safetensors").open("rb").close()
    assert "--out" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_links_to_nowhere_beside_the_weights_do_no_harm(source: Path, tmp_path: Path) -> None:
    (source / "notes.txt").symlink_to(tmp_path / "nowhere")
    model = prepare(str(source), tmp_path / "out")
    assert prepare(str(source), tmp_path / "out").manifest == model.manifest


@pytest.mark.parametrize(
    "fault", [RuntimeError("inside"), KeyboardInterrupt("inside"), FolkmootError("inside")]
)
def test_whatever_goes_wrong_inside_comes_out_unchanged(fault: BaseException, tmp_path: Path) -> None:
    def work() -> None:
        with pending_folder(tmp_path / "deep" / "out"):
            raise fault

    with pytest.raises(type(fault)) as caught:
        work()
    assert caught.value is fault
    assert list((tmp_path / "deep").iterdir()) == []
