"""Sketches are made once and found again, remade when damaged, secret on disk, and renewed by epoch without a gap."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from folkmoot.coordinator.audit.canonical_weights import CanonicalExperts
from folkmoot.coordinator.audit.sketch_keeper import SECRET_FILE, SketchKeeper
from folkmoot.ids import ExpertKey
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.trust.secret_files import SecretFileError

KEY = ExpertKey(1, 3)


class Calendar:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def keeper(folder: Path, model: MemoryExperts, clock: Calendar) -> SketchKeeper:
    return SketchKeeper(folder, CanonicalExperts(model), 4, 100.0, clock)


def test_a_restart_reads_what_was_made(tmp_path: Path) -> None:
    model, clock = MemoryExperts(), Calendar()
    keeper(tmp_path, model, clock).refresh()
    assert set(model.reads) == set(model.manifest.experts)
    model.reads.clear()
    again = keeper(tmp_path, model, clock)
    again.refresh()
    assert again.current.sketch(KEY).up.shape == (4, 16)
    assert not model.reads


def test_files_are_for_the_operator_alone(tmp_path: Path) -> None:
    keeper(tmp_path, MemoryExperts(), Calendar()).refresh()
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_damaged_sketch_is_made_again(tmp_path: Path) -> None:
    model, clock = MemoryExperts(), Calendar()
    first = keeper(tmp_path, model, clock)
    first.refresh()
    expected = first.current.sketch(KEY)
    (path,) = tmp_path.rglob("1-3.sketch")
    path.write_bytes(path.read_bytes()[:-1])
    model.reads.clear()
    found = keeper(tmp_path, model, clock).current.sketch(KEY)
    assert np.array_equal(found.down, expected.down)
    assert set(model.reads) == {KEY}


def test_another_secret_makes_other_sketches(tmp_path: Path) -> None:
    model, clock = MemoryExperts(), Calendar()
    before = keeper(tmp_path, model, clock).current.sketch(KEY)
    (tmp_path / SECRET_FILE).unlink()
    after = keeper(tmp_path, model, clock).current.sketch(KEY)
    assert after.projections != before.projections
    assert not np.array_equal(after.up, before.up)


def test_a_new_epoch_takes_over_when_it_is_whole(tmp_path: Path) -> None:
    model, clock = MemoryExperts(), Calendar()
    sketches = keeper(tmp_path, model, clock)
    sketches.refresh()
    old = sketches.current
    clock.now_s += 100
    assert sketches.current is old
    sketches.refresh()
    assert sketches.current.epoch == old.epoch + 1
    folders = [path.name for path in (tmp_path / "sketches").iterdir() if path.is_dir()]
    assert folders == [sketches.current.folder.name]
    assert sketches.current.sketch(KEY).projections != old.sketch(KEY).projections


def test_the_thread_makes_them_and_ends(tmp_path: Path) -> None:
    sketches = keeper(tmp_path, MemoryExperts(), Calendar())
    sketches.start()
    sketches.close()
    sketches.close()
    assert sketches.current.sketch(KEY)


def test_a_damaged_secret_is_refused(tmp_path: Path) -> None:
    keeper(tmp_path, MemoryExperts(), Calendar())
    (tmp_path / SECRET_FILE).write_text("nonsense")
    with pytest.raises(SecretFileError, match="holds no secret"):
        keeper(tmp_path, MemoryExperts(), Calendar())
