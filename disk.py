"""What can go wrong with a disk, by name.

Guarantees: inside `disk_errors`, an error of the operating system comes out as one of ours that names the path and says
what to do; a full disk is told from a failing one, for every command alike.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import CapacityError, FolkmootError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class DiskError(FolkmootError):
    """The disk does not do what it is told."""


class DiskFullError(CapacityError):
    """There is no room left on the disk."""


def is_full(error: OSError) -> bool:
    """Whether the disk, or the user's share of it, has no room for what was to be written."""
    return error.errno in _FULL


def disk_full(path: Path, error: OSError, elsewhere: str = "--state DIR") -> DiskFullError:
    """The error that says so; `elsewhere` is how people name another folder."""
    return DiskFullError(
        f"no room on the disk for {path} ({error.strerror})",
        advice=f"free some room, or name a folder on another disk: {elsewhere}",
    )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Names the operating system's errors on a path.

    Raises:
        DiskFullError: when the disk, or the user's share of it, is full.
        DiskError: when anything else fails.
    """
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise disk_full(path, error) from error
        raise DiskError(
            f"{path} cannot be read or written ({error.strerror})",
            advice="check the disk, or name another folder: --state DIR",
        ) from error


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of the bytes to a file, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
