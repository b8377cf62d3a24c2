"""Receipts on a contributor's disk: the newest of each session, and proofs that they stand in the public log.

Guarantees: files appear whole or not at all; each holds one encoding and nothing else; a session's receipt is only ever replaced
by a later one that takes nothing of it back, and not at all once one of the session was disputed. Receipts of at most `MOST_SESSIONS` sessions are kept, the newest; disputed ones beside them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..disk import disk_errors
from ..errors import FolkmootError
from ..trust.logged_receipts import MAX_LOGGED_BYTES, LoggedReceipt
from ..trust.receipts import Receipt, ReceiptError, ReceiptFormError, SignedReceipt

RECEIPTS_FOLDER: Final = "receipts"
RECEIPT, LOGGED, DISPUTED = ".receipt", ".logged", ".disputed"
MOST_SESSIONS: Final = 10_000
MOST_DISPUTED: Final = 100


@dataclass(frozen=True, slots=True)
class KeptReceipts:
    """What is kept of one session.

    Attributes:
        name: The session's id in hexadecimal.
        newest: The newest receipt; None when there is none, or none that can be read.
        logged: The newest that is known to stand in the public log, with the proof.
        error: What is wrong with the files.
    """

    name: str
    newest: SignedReceipt | None
    logged: LoggedReceipt | None
    error: FolkmootError | None


def takes_back(kept: Receipt, other: Receipt) -> bool:
    """Whether two receipts of one session cannot both be honest, as far as they themselves show."""
    earlier, later = sorted((kept, other), key=lambda receipt: receipt.number)
    if earlier.number == later.number:
        return earlier != later
    if later.number == earlier.number + 1 and later.previous != earlier.digest():
        return True
    sums = ("through", "total", "rows", "row_bytes")
    return any(getattr(later, name) < getattr(earlier, name) for name in sums)


class ReceiptFolder:
    """The receipts below one state folder."""

    def __init__(self, state: Path) -> None:
        self.path = state / RECEIPTS_FOLDER

    def keep(self, signed: SignedReceipt) -> None:
        """Keeps a receipt as its session's newest, unless a later one is there.

        Raises:
            DiskFullError, DiskError: when it cannot be written.
        """
        name = signed.receipt.session.hex()
        kept = self._read(name, RECEIPT)
        if isinstance(kept, SignedReceipt) and kept.receipt.number >= signed.receipt.number:
            return
        if kept is None:
            self._forget(RECEIPT, MOST_SESSIONS - 1)
        self._write(name + RECEIPT, signed.encode())

    def keep_logged(self, logged: LoggedReceipt) -> None:
        """Keeps a proof; when its receipt is later than the one that is kept, as the last of a session is, the receipt too.

        Raises:
            ReceiptError: when the receipt, or one before it in the session, is disputed, or it takes something back.
            DiskFullError, DiskError: when it cannot be written.
        """
        receipt = logged.signed.receipt
        name = receipt.session.hex()
        kept = self._read(name, RECEIPT)
        if isinstance(kept, SignedReceipt) and takes_back(kept.receipt, receipt):
            self.dispute(logged.signed)
        if any(path.name.startswith(name) for path in self.disputed()):
            raise ReceiptError(f"receipt {receipt.number} of session {name[:12]} is disputed, and logged")
        if self._read(name, LOGGED) is None:
            self._forget(LOGGED, MOST_SESSIONS - 1)
        self._write(name + LOGGED, logged.encode())
        self.keep(logged.signed)

    def dispute(self, signed: SignedReceipt) -> None:
        """Keeps a receipt that says what this node has not done. Raises DiskFullError, DiskError."""
        self._forget(DISPUTED, MOST_DISPUTED - 1)
        name = f"{signed.receipt.session.hex()}-{signed.receipt.number}"
        self._write(name + DISPUTED, signed.encode())

    def sessions(self) -> Iterator[KeptReceipts]:
        """All that is kept, the oldest first. Raises DiskError when the folder cannot be read."""
        files = [*self._files(RECEIPT), *self._files(LOGGED)]
        for name in dict.fromkeys(path.name.split(".")[0] for path in files):
            newest, logged, wrong = None, None, None
            try:
                signed = self._read(name, RECEIPT)
                newest = signed if isinstance(signed, SignedReceipt) else None
                proof = self._read(name, LOGGED)
                logged = proof if isinstance(proof, LoggedReceipt) else None
            except FolkmootError as error:
                wrong = error
            yield KeptReceipts(name, newest, logged, wrong)

    def disputed(self) -> list[Path]:
        """The files of disputed receipts, the oldest first."""
        return self._files(DISPUTED)

    def _files(self, suffix: str) -> list[Path]:
        with disk_errors(self.path):
            found = [path for path in self.path.glob(f"*{suffix}") if not path.name.startswith(".")]
            return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def _read(self, name: str, suffix: str) -> SignedReceipt | LoggedReceipt | None:
        """What a file holds; None when there is none. Raises ReceiptFormError, DiskError."""
        path = self.path / (name + suffix)
        try:
            with disk_errors(path):
                if not path.exists():
                    return None
                with path.open("rb") as stream:
                    data = stream.read(MAX_LOGGED_BYTES + 1)
            return LoggedReceipt.decode(data) if suffix == LOGGED else SignedReceipt.decode(data)
        except ReceiptFormError as error:
            raise ReceiptFormError(f"{path} is damaged: {error.message}") from error

    def _write(self, name: str, data: bytes) -> None:
        path = self.path / name
        draft = self.path / f".{name}.{secrets.token_hex(8)}"
        with disk_errors(path):
            self.path.mkdir(mode=0o700, exist_ok=True)
            try:
                with draft.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)

    def _forget(self, suffix: str, most: int) -> None:
        """Makes room for one more file of a kind."""
        files = self._files(suffix)
        with disk_errors(self.path):
            for path in files[: max(0, len(files) - most)]:
                path.unlink(missing_ok=True)
