"""The node's state folder: its lock, its identity, the manifests that it knows.

Guarantees: at most one running node uses a state folder; a manifest is handed out only when its bytes hash to the digest
that was asked for, and one that does not is removed; files appear whole or not at all.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from pathlib import Path

from ..disk import disk_errors
from ..models.manifest import Manifest, ManifestError
from ..state_lock import StateLock, unusable
from ..trust.keys import Identity

log = logging.getLogger(__name__)


class StateFolder:
    """The folder while a node owns it; `close` gives it up."""

    def __init__(self, path: Path) -> None:
        """Makes the folder if there is none, and locks it.

        Raises:
            StateError: when it cannot be made or written.
            StateInUseError: when another node has it.
            DiskFullError: when there is no room for it.
        """
        self.path = path
        self._last: Manifest | None = None
        self._lock = StateLock(path, "node")
        try:
            (path / "manifests").mkdir(exist_ok=True)
            (path / "experts").mkdir(exist_ok=True)
        except OSError as error:
            self._lock.close()
            raise unusable(path, error) from error

    def close(self) -> None:
        """Gives the folder up; closing twice is harmless."""
        self._lock.close()

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
        with disk_errors(path):
            path.unlink(missing_ok=True)
        return None

    def save_manifest(self, digest: bytes, data: bytes) -> None:
        """Keeps the bytes of a manifest, which the caller has checked.

        Raises:
            DiskFullError, DiskError: when they cannot be written.
        """
        path = self._manifest_path(digest)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with disk_errors(path):
            try:
                draft.write_bytes(data)
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)

    def _manifest_path(self, digest: bytes) -> Path:
        return self.path / "manifests" / f"{digest.hex()}.json"
