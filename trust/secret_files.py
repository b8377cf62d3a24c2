"""Files that hold a secret: how they come to be, and how they are read.

Guarantees: a secret file never exists half written, nor with a mode that lets anyone but its owner read it; of several
processes that create the same one at once, exactly one wins and all of them go on with its content; reading is bounded.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from ..disk import disk_full, is_full
from ..errors import TrustError

MAX_SECRET_FILE_BYTES = 64 << 10
"""A larger file is not one of ours."""


class SecretFileError(TrustError):
    """A file that should hold a secret is missing what it must have, or lets others read it."""


def read_secret_file(path: Path) -> bytes | None:
    """The content of the file, or None when there is none.

    Raises:
        SecretFileError: when the file is not a regular one, is too large, cannot be read, or others may read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _check_status(path, os.fstat(descriptor))
            content = os.read(descriptor, MAX_SECRET_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SecretFileError(
            f"the key file {path} cannot be read ({error.strerror})",
            advice="give it to the user that runs this command, or name another state folder",
        ) from error
    if len(content) > MAX_SECRET_FILE_BYTES:
        raise SecretFileError(
            f"the key file {path} has more than {MAX_SECRET_FILE_BYTES} bytes",
            advice="restore it from a copy, or delete it to start again with a new key",
        )
    return content


def _check_status(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SecretFileError(f"{path} is not a regular file", advice="name another state folder")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise SecretFileError(
            f"others may read the key file {path} (mode {mode:04o})",
            advice=f"if nobody else had it, run `chmod 600 {path}`; if in doubt, delete it and start again",
        )


def load_or_create_secret(path: Path, size: int, when_deleted: str) -> bytes:
    """The random secret that a file keeps as hexadecimal digits; a new one is made when there is no file.

    Args:
        path: The file.
        size: Bytes of the secret.
        when_deleted: What deleting the file would mean, for whoever finds it damaged.

    Raises:
        SecretFileError: when the file cannot be read or written, is damaged, or others may read it.
        DiskFullError: when the disk has no room for it.
    """
    content = read_secret_file(path)
    if content is None:
        content = create_secret_file(path, secrets.token_hex(size).encode() + b"\n")
    try:
        secret = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) != size:
        raise SecretFileError(f"{path} holds no secret", advice=f"delete it: {when_deleted}")
    return secret


def create_secret_file(path: Path, content: bytes) -> bytes:
    """Creates the file with mode 0600 and returns its content: that of whoever came first, when it already exists.

    Folders that are missing are made with mode 0700.

    Raises:
        SecretFileError: when the file cannot be written, or exists and `read_secret_file` refuses it.
        DiskFullError: when the disk has no room for it.
    """
    try:
        _make_folder(path.parent)
        _create(path, content)
    except OSError as error:
        if is_full(error):
            raise disk_full(path, error) from error
        raise SecretFileError(
            f"the key file {path} cannot be written ({error.strerror})",
            advice="name a state folder on a local disk that you may write to",
        ) from error
    winner = read_secret_file(path)
    if winner is None:
        raise SecretFileError(f"the key file {path} vanished", advice="find out what deletes it")
    return winner


def _make_folder(folder: Path) -> None:
    if not folder.parent.exists():
        _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def _create(path: Path, content: bytes) -> None:
    """Writes a neighbour in full, then gives it the name, which fails when the name is taken."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        _sync_folder(path.parent)
    finally:
        draft.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
