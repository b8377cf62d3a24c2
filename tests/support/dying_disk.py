"""A disk under which the world ends: the process is killed, or the power goes.

Guarantees: the log's real code runs on real files; an end strikes before, in the midst of, or after any one thing that is
done to the disk. After a loss of power, content that was not synced is cut anywhere, and names that were not synced are
there or not, each as the test's draws say.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path

from folkmoot.coordinator.ledger.disk import Disk


class KilledError(BaseException):
    """The process ends here."""


class End(Enum):
    """How the world ends, at the step that was chosen."""

    BEFORE = auto()
    MIDWAY = auto()
    """What is written is written by half; all else is not done."""
    AFTER = auto()
    FULL = auto()
    """The process lives on: the disk is full, once, with half of what was to be written."""


class DyingDisk(Disk):
    """Ends at step `at`, counted from 0 over everything that is done; never, when it is negative."""

    def __init__(self, at: int = -1, end: End = End.BEFORE) -> None:
        self.steps = 0
        self._at = at
        self._end = end

    def _step(self, act: Callable[[], None], midway: Callable[[], None] = lambda: None) -> None:
        number, self.steps = self.steps, self.steps + 1
        if number != self._at:
            act()
            return
        if self._end is End.AFTER:
            act()
        elif self._end is not End.BEFORE:
            midway()
        if self._end is End.FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise KilledError

    def write(self, path: Path, data: bytes) -> None:
        """A step that can end midway."""
        half = data[: len(data) // 2]
        self._step(lambda: super(DyingDisk, self).write(path, data), lambda: void(path.write_bytes(half)))

    def replace(self, draft: Path, path: Path) -> None:
        """A step."""
        self._step(lambda: super(DyingDisk, self).replace(draft, path))

    def make_folder(self, path: Path) -> None:
        """A step."""
        self._step(lambda: super(DyingDisk, self).make_folder(path))

    def sync_folder(self, path: Path) -> None:
        """A step."""
        self._step(lambda: super(DyingDisk, self).sync_folder(path))

    def remove(self, path: Path) -> None:
        """A step."""
        self._step(lambda: super(DyingDisk, self).remove(path))

    def remove_folder(self, path: Path) -> None:
        """A step."""
        self._step(lambda: super(DyingDisk, self).remove_folder(path))


def void(_: object) -> None:
    """Nothing, from something."""


class VolatileDisk(DyingDisk):
    """Remembers what a loss of power could undo: every name since its folder was last synced.

    Names become lasting with the folder that they stand in; a folder that is lost takes what is in it along.
    """

    def __init__(self, at: int = -1, end: End = End.BEFORE) -> None:
        super().__init__(at, end)
        self._undo: list[tuple[Path, Callable[[], None]]] = []

    def lose_power(self, stays: Callable[[], bool]) -> None:
        """Undoes, newest first, what was not synced and, by the draws, does not stay."""
        for _, undo in reversed(self._undo):
            if not stays():
                undo()
        self._undo.clear()

    def replace(self, draft: Path, path: Path) -> None:
        """Undone, the name is again that of what had it before."""
        before = path.read_bytes() if path.exists() else None
        try:
            super().replace(draft, path)
        finally:
            if not draft.exists():
                self._undo.append((path.parent, lambda: restore(path, before)))

    def make_folder(self, path: Path) -> None:
        """Undone, it is gone with everything in it."""
        new = not path.exists()
        try:
            super().make_folder(path)
        finally:
            if new and path.exists():
                self._undo.append((path.parent, lambda: shutil.rmtree(path, ignore_errors=True)))

    def remove(self, path: Path) -> None:
        """Undone, the file is back."""
        before = path.read_bytes() if path.exists() else None
        try:
            super().remove(path)
        finally:
            if before is not None and not path.exists():
                self._undo.append((path.parent, lambda: restore(path, before)))

    def remove_folder(self, path: Path) -> None:
        """Undone, the folder is back, empty."""
        try:
            super().remove_folder(path)
        finally:
            if not path.exists():
                self._undo.append((path.parent, lambda: path.mkdir(parents=True, exist_ok=True)))

    def sync_folder(self, path: Path) -> None:
        """Makes the folder's names lasting."""
        super().sync_folder(path)
        self._undo = [(folder, undo) for folder, undo in self._undo if folder != path]


def restore(path: Path, content: bytes | None) -> None:
    """Gives a file what it had; None removes it."""
    if content is None:
        path.unlink(missing_ok=True)
    elif path.parent.is_dir():
        path.write_bytes(content)
