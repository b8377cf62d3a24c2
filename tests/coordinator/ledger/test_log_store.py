"""Proven: the log's files are the specification's at every size, whatever ends the process or the power at any step loses
nothing that was acknowledged and shows no two logs, and damage is refused."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.coordinator.ledger.log_store import (
    MAX_BATCH,
    LogDamagedError,
    LogInUseError,
    LogNotWrittenError,
    LogStore,
)
from folkmoot.tests.support.dying_disk import DyingDisk, End, KilledError, VolatileDisk
from folkmoot.tests.support.memory_log import MemoryLog
from folkmoot.tests.support.quick_disk import QUICK_DISK
from folkmoot.trust.checkpoints import Checkpoint, log_key, open_checkpoint
from folkmoot.trust.keys import Identity
from folkmoot.trust.log_tiles import CHECKPOINT_PATH, LogError, Tile, encode_bundle, tile_in, tiles_in
from folkmoot.trust.log_verifier import LogVerifier

LOG, OTHER = Identity(b"l" * 32), Identity(b"o" * 32)
KEY = log_key(LOG.verifying_key)


def some(start: int, end: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(start, end)]


def grow(store: LogStore, size: int) -> None:
    while store.size < size:
        store.append(some(store.size, min(size, store.size + MAX_BATCH)))


def checkpoint(store: LogStore) -> Checkpoint:
    return open_checkpoint(store.read(CHECKPOINT_PATH) or b"", KEY)


def files(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found.pop("lock")
    return found


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory: `DyingDisk` says what is lost, and thousands of logs are opened."""
    with tempfile.TemporaryDirectory(dir=QUICK_DISK) as folder:
        yield Path(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.mark.parametrize("sizes", [[1, 2, 7, 255, 256, 257, 511, 513], [100, 300, 513], [256, 512]])
def test_every_file_is_the_specifications_and_stays(sizes: list[int], folder: Path) -> None:
    oracle = MemoryLog(LOG)
    store = LogStore(folder, LOG)
    for size in sizes:
        oracle.publish(some(len(oracle.entries), size))
        grow(store, size)
        assert checkpoint(store).root == open_checkpoint(oracle.files[CHECKPOINT_PATH], oracle.key).root
        tiles = {path: data for path, data in oracle.files.items() if path != CHECKPOINT_PATH}
        assert {path: store.read(path) for path in tiles} == tiles
    store.close()
    again = LogStore(folder, LOG)
    assert {path: again.read(path) for path in tiles} == tiles
    # Nothing is kept twice: one file for each tile, the widest.
    kept = [Tile.parse(path) for path in files(folder) if path.startswith("tile/")]
    assert len({(tile.level, tile.index) for tile in kept}) == len(kept)
    again.close()


def test_a_log_of_66000_entries_is_followed_and_reopened(folder: Path) -> None:
    store = LogStore(folder, LOG)
    grow(store, 1000)
    before = checkpoint(store)
    grow(store, 66_000)
    store.close()
    again = LogStore(folder, LOG)
    verifier = LogVerifier(KEY, again.read)
    verifier.check_consistency(before, verifier.checkpoint())
    verifier.check_inclusion(b"entry 65999", 65_999, verifier.checkpoint())
    assert again.read("tile/2/000.p/1") is not None
    again.close()


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "lock",
        "tile/0/000",
        "tile/0/000.p/8",
        "tile/1/000.p/1",
        "tile/0/../0/000.p/1",
        "../log/checkpoint",
    ],
)
def test_nothing_else_is_served(path: str, folder: Path) -> None:
    store = LogStore(folder, LOG)
    grow(store, 7)
    (folder / "tile/0/000").write_bytes(bytes(8192))
    assert store.read(path) is None
    store.close()


def test_one_process_writes_at_a_time(folder: Path) -> None:
    store = LogStore(folder, LOG)
    with pytest.raises(LogInUseError):
        LogStore(folder, LOG)
    store.close()
    LogStore(folder, LOG).close()


@pytest.mark.parametrize("entries", [[], [b""] * (MAX_BATCH + 1), [b"fine", bytes(65536)]], ids=range(3))
def test_a_batch_that_cannot_be_leaves_the_log_as_it_was(entries: list[bytes], folder: Path) -> None:
    store = LogStore(folder, LOG)
    grow(store, 3)
    with pytest.raises(LogError):
        store.append(entries)
    assert store.append(some(3, 4)) == 3
    assert entries_of(store) == some(0, 4)
    store.close()


def entries_of(store: LogStore) -> list[bytes]:
    verifier = LogVerifier(KEY, store.read)
    return [entry for _, entry in verifier.entries(verifier.checkpoint())]


PLANS = [[1, 1, 1], [250, 3, 5], [254, 2, 256, 1]]
"""Sizes of batches."""


def run_plan(folder: Path, plan: list[int], disk: DyingDisk) -> tuple[int, list[Checkpoint]]:
    """Appends batch after batch; says how many entries were acknowledged, and what checkpoints were shown."""
    acknowledged, shown = 0, []
    store = None
    try:
        store = LogStore(folder, LOG, disk)
        shown.append(checkpoint(store))
        for batch in plan:
            try:
                store.append(some(store.size, store.size + batch))
            except LogNotWrittenError:
                store.append(some(store.size, store.size + batch))
            acknowledged = store.size
            shown.append(checkpoint(store))
    except (KilledError, LogNotWrittenError):
        pass
    finally:
        if store is not None:
            store.close()
    return acknowledged, shown


def check_reopened(folder: Path, acknowledged: int, shown: list[Checkpoint]) -> None:
    """The log that is opened again has all that was acknowledged, grew from all that was shown, and grows on."""
    for more in (1, 300):
        store = LogStore(folder, LOG)
        size = store.size
        assert size >= max([acknowledged, *(earlier.size for earlier in shown)])
        tiles = {Tile.parse(path) for path in files(folder) if path.startswith("tile/")}
        assert tiles >= set(tiles_in(size))
        # Nothing lies there that the checkpoint does not cover.
        assert all(tile.width <= tile_in(size, tile.level, tile.index).width for tile in tiles)
        grow(store, size + more)
        assert entries_of(store) == some(0, size + more)
        verifier = LogVerifier(KEY, store.read)
        for earlier in shown:
            verifier.check_consistency(earlier, verifier.checkpoint())
        assert not list((folder / "drafts").iterdir())
        store.close()


def steps_of(plan: list[int]) -> int:
    with tempfile.TemporaryDirectory(dir=QUICK_DISK) as folder:
        disk = DyingDisk()
        run_plan(Path(folder) / "log", plan, disk)
        return disk.steps


@pytest.mark.parametrize("end", End)
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_whatever_step_is_the_last_nothing_acknowledged_is_lost(
    plan: list[int], end: End, tmp_path: Path
) -> None:
    steps = steps_of(plan)
    assert steps > 40
    for at in range(steps):
        folder = tmp_path / str(at) / "log"
        folder.parent.mkdir()
        acknowledged, shown = run_plan(folder, plan, DyingDisk(at, end))
        check_reopened(folder, acknowledged, shown)


@pytest.mark.parametrize("plan", [[1], [], [255]], ids=str)
@pytest.mark.parametrize("end", [End.BEFORE, End.AFTER])
def test_a_kill_and_then_a_loss_of_power_take_nothing_that_was_shown_between(
    end: End, plan: list[int], tmp_path: Path
) -> None:
    """What a killed process left unsynced is seen by the next one, and must not be built upon."""
    for at in range(steps_of([1, 1])):
        folder = tmp_path / str(at) / "log"
        folder.parent.mkdir()
        disk = VolatileDisk(at, end)
        _, shown = run_plan(folder, [1, 1], disk)
        acknowledged, more = run_plan(folder, plan, disk)
        disk.lose_power(lambda: False)
        check_reopened(folder, acknowledged, [*shown, *more])


@given(st.sampled_from(PLANS), st.data())
@settings(max_examples=60, deadline=None)
def test_a_loss_of_power_takes_nothing_acknowledged(plan: list[int], data: st.DataObject) -> None:
    end = data.draw(st.sampled_from([End.BEFORE, End.MIDWAY, End.AFTER]))
    disk = VolatileDisk(data.draw(st.integers(0, steps_of(plan))), end)
    with tempfile.TemporaryDirectory(dir=QUICK_DISK) as folder:
        acknowledged, shown = run_plan(Path(folder) / "log", plan, disk)
        disk.lose_power(lambda: data.draw(st.booleans()))
        check_reopened(Path(folder) / "log", acknowledged, shown)


WRITER = """
import sys
from pathlib import Path
from folkmoot.coordinator.ledger.log_store import LogStore
from folkmoot.trust.keys import Identity
store = LogStore(Path(sys.argv[1]), Identity(b"l" * 32))
while True:
    store.append([b"entry %d" % (store.size + more) for more in range(1 + store.size % 7)])
    print(store.size, flush=True)
"""


def test_a_writer_that_is_killed_again_and_again_loses_nothing(folder: Path) -> None:
    acknowledged = 0
    for lines in (1, 5, 2, 20, 3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True, cwd="/"
        ) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            acknowledged = int((writer.stdout.read().split() or [str(acknowledged)])[-1])
        store = LogStore(folder, LOG)
        assert store.size >= acknowledged
        assert entries_of(store) == some(0, store.size)
        store.close()


def damage(folder: Path) -> Iterator[tuple[str, Path]]:
    yield "checkpoint", folder / "checkpoint"
    yield "leaves", folder / "tile/0/001.p/44"
    yield "above", folder / "tile/1/000.p/1"
    yield "entries", folder / "tile/entries/001.p/44"


@pytest.mark.parametrize("how", ["gone", "flipped", "cut"])
@pytest.mark.parametrize("which", ["checkpoint", "leaves", "above", "entries"])
def test_damage_is_refused(which: str, how: str, folder: Path) -> None:
    store = LogStore(folder, LOG)
    grow(store, 300)
    store.close()
    path = dict(damage(folder))[which]
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    else:
        content[-9] ^= 1
        path.write_bytes(content if how == "flipped" else content[:-9])
    before = files(folder)
    with pytest.raises(LogDamagedError):
        LogStore(folder, LOG)
    assert files(folder) == before


def test_an_old_checkpoint_is_not_taken_for_a_torn_tail(folder: Path) -> None:
    store = LogStore(folder, LOG)
    grow(store, 10)
    old = files(folder)
    grow(store, 900)
    store.close()
    for path, data in old.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    with pytest.raises(LogDamagedError, match="older"):
        LogStore(folder, LOG)


def test_the_log_of_another_coordinator_is_refused(folder: Path) -> None:
    LogStore(folder, LOG).close()
    with pytest.raises(LogDamagedError):
        LogStore(folder, OTHER)


def test_a_tile_that_vanishes_while_the_log_is_open_is_an_error(folder: Path) -> None:
    store = LogStore(folder, LOG)
    grow(store, 7)
    (folder / "tile/entries/000.p/7").write_bytes(encode_bundle(some(0, 3)))
    (folder / "tile/0/000.p/7").unlink()
    for path in ("tile/entries/000.p/7", "tile/0/000.p/2"):
        with pytest.raises(LogDamagedError):
            store.read(path)
    store.close()


def test_a_disk_that_takes_nothing_is_one_clear_error(tmp_path: Path) -> None:
    class FullDisk(DyingDisk):
        def write(self, path: Path, data: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(LogNotWrittenError, match="No space"):
        LogStore(tmp_path / "log", LOG, FullDisk())
    LogStore(tmp_path / "log", LOG).close()
