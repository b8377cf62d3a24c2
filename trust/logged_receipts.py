"""A receipt that stands in the public log, with all that shows it.

Guarantees: a batch's tree has one leaf for each session, its newest receipt with the coordinator's signature, ordered by node
and session; a `LoggedReceipt` has one encoding, and parsing it is bounded and raises `ReceiptFormError` alone. `check` says
that the receipt is in the batch and that the coordinator signed both; that the batch is in the log is for whoever reads the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from . import merkle
from .byte_reader import ByteReader
from .keys import SIGNATURE_BYTES
from .log_entries import LogEntry, ReceiptsEntry
from .log_tiles import MAX_INDEX, LogError
from .merkle import HASH_BYTES
from .receipts import ReceiptError, ReceiptFormError, SignedReceipt
from .statements import domain_tag

MAX_PROOF_HASHES: Final = 63
MAX_LOGGED_BYTES: Final = 4096
_TAG: Final = domain_tag("logged-receipt")
_ENTRY_BYTES: Final = ReceiptsEntry.BYTES + SIGNATURE_BYTES


@dataclass(frozen=True, slots=True)
class LoggedReceipt:
    """One receipt, and where it stands.

    Attributes:
        signed: The receipt.
        place: Its leaf's index in the batch.
        proof: Inclusion proof in the batch, 32 bytes each.
        entry: The encoded `LogEntry` of the batch.
        index: The entry's index in the log.
    """

    signed: SignedReceipt
    place: int
    proof: tuple[bytes, ...]
    entry: bytes
    index: int

    def check(self) -> ReceiptsEntry:
        """The batch's entry, once the receipt is known to be in it, and both to be the same coordinator's.

        Raises:
            ReceiptError: when the entry is no batch of receipts.
            InclusionError: when the receipt is not in the batch.
            LogError: when the entry is damaged, or another coordinator's.
            SignatureError, WeakKeyError: when the receipt's or the entry's signature does not hold.
        """
        self.signed.verify()
        entry = LogEntry.decode(self.entry)
        entry.verify(self.signed.receipt.coordinator)
        statement = entry.statement
        if not isinstance(statement, ReceiptsEntry):
            raise ReceiptError("the log entry that is named is no batch of receipts")
        merkle.verify_inclusion(
            batch_leaf(self.signed), self.place, statement.count, self.proof, statement.root
        )
        return statement

    def encode(self) -> bytes:
        """The canonical bytes.

        Raises:
            ReceiptFormError: when the proof or the entry cannot be one.
        """
        if len(self.proof) > MAX_PROOF_HASHES or any(len(part) != HASH_BYTES for part in self.proof):
            raise ReceiptFormError("an inclusion proof has too many hashes, or one of the wrong width")
        if len(self.entry) != _ENTRY_BYTES:
            raise ReceiptFormError(f"the entry of a batch has {_ENTRY_BYTES} bytes, not {len(self.entry)}")
        return b"".join(
            (
                _TAG,
                self.signed.encode(),
                self.place.to_bytes(8),
                len(self.proof).to_bytes(1),
                *self.proof,
                self.entry,
                self.index.to_bytes(8),
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> LoggedReceipt:
        """Reads what `encode` made.

        Raises:
            ReceiptFormError: when the bytes are anything else.
        """
        reader = ByteReader(data, ReceiptFormError)
        reader.expect(_TAG, "logged receipt of this version")
        signed = SignedReceipt.decode(reader.take(SignedReceipt.BYTES))
        place = reader.number(8, MAX_INDEX)
        proof = tuple(reader.take(HASH_BYTES) for _ in range(reader.number(1, MAX_PROOF_HASHES)))
        entry = reader.take(_ENTRY_BYTES)
        try:
            LogEntry.decode(entry)
        except LogError as error:
            raise ReceiptFormError(error.message) from error
        index = reader.number(8, MAX_INDEX)
        reader.finish()
        return cls(signed, place, proof, entry, index)


def batch_leaf(signed: SignedReceipt) -> bytes:
    """The leaf hash by which a receipt stands in a batch."""
    return merkle.leaf_hash(signed.encode())


def batch_of(receipts: Sequence[SignedReceipt]) -> list[SignedReceipt]:
    """Receipts in the order of a batch's tree: by node, then session."""
    return sorted(receipts, key=lambda signed: (signed.receipt.node, signed.receipt.session))


def batch_entry(coordinator: bytes, batch: Sequence[SignedReceipt], logged_unix_s: int) -> ReceiptsEntry:
    """What the log is told of a batch, which is in order."""
    root = merkle.root([batch_leaf(signed) for signed in batch])
    return ReceiptsEntry(coordinator, len(batch), root, logged_unix_s)
