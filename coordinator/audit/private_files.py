"""Files of the coordinator's state that appear whole or not at all, and that only their owner can read.

Guarantees: after `write_private` returns, the content survives the end of the process and of the machine's power; before,
the file is what it was. A folder that is made here lets nobody else in.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def private_folder(folder: Path) -> Path:
    """Makes the folder, and those above it, with mode 0700."""
    if not folder.parent.exists():
        private_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def write_private(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Gives the file this content, with mode 0600, in one step.

    Args:
        path: The file; its folder is there.
        content: All of it.
        durable: Whether it has to be on the disk when this returns; what can be made again need not.

    Raises:
        OSError: when the disk does not take it; the file is then what it was.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(descriptor)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if durable:
        _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
