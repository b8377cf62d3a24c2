"""The folder that a prepared model is written to.

Guarantees: it appears whole or not at all. Work is done in `NAME.partial` beside it, by one process at a time, and renamed
at the end; what an interrupted run left there is cleared by the next. A folder that holds anything else is never touched.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import CapacityError, UsageError
from ..prepared import MANIFEST
from ..safetensors_header import CheckpointError
from ..source_table import SOURCE

LOCK = ".lock"
SPARE_BYTES = 32 << 20
"""What is left free on the disk beside what is about to be written."""


class OutputFolderError(UsageError):
    """The folder to prepare into cannot be used."""


class NoSpaceError(CapacityError):
    """The disk is too small for what is to be written."""


def is_prepared(folder: Path) -> bool:
    """Whether a folder looks like a prepared model."""
    return (folder / MANIFEST).is_file() and (folder / SOURCE).is_file()


def check_usable(out: Path) -> None:
    """Refuses a path that holds something which is not ours.

    Raises:
        OutputFolderError: it is a file, or a folder with other things in it.
    """
    if out.is_dir():
        if not is_prepared(out) and any(out.iterdir()):
            raise OutputFolderError(
                f"{out} holds something else", advice="name an empty or a new folder with --out"
            )
    elif out.exists() or out.is_symlink():
        raise OutputFolderError(f"{out} is not a folder", advice="name another with --out")


def check_space(folder: Path, needed_bytes: int) -> None:
    """Refuses to begin what the disk cannot hold.

    Args:
        folder: An existing folder on the disk in question.
        needed_bytes: What is about to be written there.

    Raises:
        NoSpaceError: says how much is needed, and how much there is.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SPARE_BYTES:
        raise NoSpaceError(
            f"{folder} has {free / 1e9:.2f} GB free, but {(needed_bytes + SPARE_BYTES) / 1e9:.2f} GB are needed",
            advice="free some, or name a folder on another disk with --out",
        )


@contextmanager
def pending_folder(out: Path) -> Iterator[Path]:
    """Gives a folder to fill, which becomes `out` when the block ends well, and is gone when it does not.

    A prepared model that lies at `out` is replaced at the end.

    Raises:
        OutputFolderError: `out` cannot be written, or another process is at it.
        NoSpaceError: the disk filled up.
        CheckpointError: a file that is read for it, elsewhere, cannot be read.
    """
    partial = out.with_name(out.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with (partial / LOCK).open("wb") as lock:
            _lock(lock.fileno(), out)
            for left in partial.iterdir():
                if left.name != LOCK:
                    _remove(left)
            try:
                yield partial
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            # Locked until it has its name: whoever came between the two would clear what is finished.
            _replace(partial, out)
            (out / LOCK).unlink()
    except OSError as error:
        raise _named(error, out, partial) from error


def _lock(descriptor: int, out: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputFolderError(
            f"another process is preparing {out}",
            advice="wait until it is done, or name another folder with --out",
        ) from error


def _replace(partial: Path, out: Path) -> None:
    if not is_prepared(out):
        partial.rename(out)
        return
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _named(error: OSError, out: Path, partial: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(
            f"the disk of {out} is full",
            advice="free some space, or name a folder on another disk with --out",
        )
    if error.filename and not _is_ours(Path(os.fsdecode(error.filename)), out, partial):
        return CheckpointError(
            f"{os.fsdecode(error.filename)} cannot be read ({error.strerror})",
            advice="make it readable for the user that runs this command, or download it again",
        )
    where = f" ({os.fsdecode(error.filename)})" if error.filename else ""
    return OutputFolderError(
        f"cannot prepare into {out}: {error.strerror or error}{where}",
        advice="name a folder that you may write to with --out",
    )


def _is_ours(path: Path, out: Path, partial: Path) -> bool:
    """Whether a path is what is written to, something in it, or a folder on the way to it."""
    return any(path.is_relative_to(own) or own.is_relative_to(path) for own in (out, partial))
