"""The lock of a state folder.

Guarantees: at most one process at a time has a folder's `StateLock`; the lock ends with its process, whatever that dies of,
so no folder stays locked by mistake. Files in the folder can be read, and orders left there, by whoever may, lock or not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final

from .disk import disk_full, is_full
from .errors import FolkmootError, UsageError

LOCK_FILE: Final = "lock"


class StateError(UsageError):
    """The state folder cannot be used."""


class StateInUseError(StateError):
    """Another process runs on this state folder."""


def unusable(folder: Path, error: OSError, elsewhere: str = "--state DIR") -> FolkmootError:
    """What to raise when a state folder, or a folder in it, cannot be made; `elsewhere` is how people name another."""
    if is_full(error):
        return disk_full(folder, error, elsewhere)
    return StateError(
        f"the state folder {folder} cannot be used ({error.strerror})",
        advice=f"name one that you may write to: {elsewhere}",
    )


class StateLock:
    """A state folder while one process owns it; `close` gives it up."""

    def __init__(self, folder: Path, owner: str, *, elsewhere: str = "--state DIR") -> None:
        """Makes the folder if there is none, and locks it.

        Args:
            folder: The folder.
            owner: What runs on it, as errors call it.
            elsewhere: How people name another folder.

        Raises:
            StateError: when the folder cannot be made or written.
            StateInUseError: when another process has it.
            DiskFullError: when there is no room for it.
        """
        self._descriptor = -1
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(folder, error, elsewhere) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            other = os.pread(descriptor, 32, 0).decode("ascii", errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise StateInUseError(
                f"another {owner} (process {other}) uses the state folder {folder}",
                advice=f"stop it, or give this {owner} a folder of its own: {elsewhere}",
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise StateError(
                f"the state folder {folder} cannot be locked ({error.strerror})",
                advice=f"name one on a local disk: {elsewhere}",
            ) from error
        self._descriptor = descriptor
        # The number is for the message above only: a disk too full for it is no reason to stop.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Gives the folder up; closing twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
