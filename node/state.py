"""The node's state folder: its lock, its identity, the manifests that it knows.

Guarantees: at most one running node uses a state folder; a manifest is handed out only when its bytes hash to the digest
that was asked for, and one that does not is removed; files appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
from pathlib import Path

from ..errors import UsageError
from ..models.manifest import Manifest, ManifestError
from ..trust.keys import Identity
from .disk import disk_errors

log = logging.getLogger(__name__)


class StateError(UsageError):
    """The state folder cannot be used."""


class StateInUseError(StateError):
    """Another node runs on this state folder."""


class StateFolder:
    """The folder while a node owns it; `close` gives it up."""

    def __init__(self, path: Path) -> None:
        """Makes the folder if there is none, and locks it.

        Raises:
            StateError: when it cannot be made or written.
            StateInUseError: when another node has it.
        """
        self.path = path
        self._last: Manifest | None = None
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (path / "manifests").mkdir(exist_ok=True)
            (path / "experts").mkdir(exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(
                f"the state folder {path} cannot be used ({error.strerror})",
                advice="name one that you may write to: --state DIR",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._lock, 32, 0).decode("ascii", errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise StateInUseError(
                f"another node (process {owner}) uses the state folder {path}",
                advice="stop it, or give this node a folder of its own: --state DIR",
            ) from error
        except OSError as error:
            os.close(self._lock)
            raise StateError(
                f"the state folder {path} cannot be locked ({error.strerror})",
                advice="name one on a local disk: --state DIR",
            ) from error
        # The number is for the message above only: a disk too full for it is no reason to stop.
        with contextlib.suppress(OSError):
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Gives the folder up; closing twice is harmless."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def identity(self) -> Identity:
        """The node's key, made on the first call ever.

        Raises:
            TrustError: when the key file is damaged, or open to others.
        """
        return Identity.load_or_create(self.path / "identity.key")

    @property
    def experts(self) -> Path:
        """Where the expert store keeps its files."""
        return self.path / "experts"

    def load_manifest(self, digest: bytes) -> Manifest | None:
        """The manifest of this digest, when the folder has it undamaged; the last one comes from memory."""
        if self._last is not None and self._last.digest == digest:
            return self._last
        path = self._manifest_path(digest)
        with disk_errors(path):
            if not path.exists():
                return None
            data = path.read_bytes()
        try:
            if hashlib.sha256(data).digest() == digest:
                self._last = Manifest.decode(data)
                return self._last
            log.warning("the manifest %s is damaged; it is fetched again", path)
        except ManifestError as error:
            log.warning("the manifest %s cannot be used (%s); it is fetched again", path, error)
        path.unlink(missing_ok=True)
        return None

    def save_manifest(self, digest: bytes, data: bytes) -> None:
        """Keeps the bytes of a manifest, which the caller has checked.

        Raises:
            DiskFullError, DiskError: when they cannot be written.
        """
        path = self._manifest_path(digest)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            with disk_errors(path):
                draft.write_bytes(data)
                draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def _manifest_path(self, digest: bytes) -> Path:
        return self.path / "manifests" / f"{digest.hex()}.json"
