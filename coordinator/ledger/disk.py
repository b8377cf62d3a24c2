"""The few things that the log does to a disk, one method each, so that a test can end the world before, in and after any.

Guarantees: `write` returns when the bytes are on the disk; that a name is there, or is another's, is sure only once the
folder that it stands in has been synced.
"""

from __future__ import annotations

import os
from pathlib import Path


class Disk:
    """The machine's own disk."""

    def write(self, path: Path, data: bytes) -> None:
        """Gives a file, made when it is not there, this content."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)

    def replace(self, draft: Path, path: Path) -> None:
        """Gives a file another name, in place of what had it."""
        draft.replace(path)

    def make_folder(self, path: Path) -> None:
        """Makes a folder, unless it is there."""
        path.mkdir(mode=0o700, exist_ok=True)

    def sync_folder(self, path: Path) -> None:
        """Returns when the names in a folder are on the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Removes a file, if it is there."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Removes an empty folder."""
        path.rmdir()
