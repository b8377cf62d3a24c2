"""Receipts: what a coordinator signs for results that it has accepted, and what a node signs when it agrees.

Guarantees: the receipts of a session form one chain in which nothing can be left out, put in or moved: each names the one
before it by digest, how far in the session's frames it reaches, and the Merkle root of the accepted results' statements in the
order of their frames. Totals are cumulative, so the latest says all. A result is signed by its node by itself; a receipt adds
the coordinator's word that it was accepted, and an acknowledgement the node's that both hold the same books.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar

from ..errors import TrustError
from . import merkle
from .byte_reader import ByteReader
from .canonical import CanonicalStatement
from .keys import SIGNATURE_BYTES, Identity, VerifyingKey
from .statements import ResultStatement, StatementError, domain_tag


class ReceiptError(TrustError):
    """A receipt does not follow the one before it, or does not cover what it should."""


class ReceiptFormError(ReceiptError):
    """Bytes are no receipt."""


@dataclass(frozen=True, slots=True)
class CreditedResult:
    """One result as it counts in a receipt.

    Attributes:
        sequence: The frame's number in the session.
        leaf: `result_leaf` of its statement.
        rows: Pairs of a row and an expert that it answered.
        row_bytes: The sum over these of the expert's canonical bytes: what the work is measured by.
    """

    sequence: int
    leaf: bytes
    rows: int
    row_bytes: int


def result_leaf(result: ResultStatement) -> bytes:
    """The leaf hash by which a result stands in a receipt's tree."""
    return merkle.leaf_hash(result.encode())


@dataclass(frozen=True, slots=True)
class Receipt(CanonicalStatement, kind="receipt", form="32s32s32s32sQ32sQQQ32sQQQ"):
    """What a coordinator signs when it has accepted some results of a session.

    Attributes:
        coordinator, node: Their public keys.
        session: The link's session id.
        manifest: Digest of the model's manifest.
        number: Of this receipt within the session, from 1.
        previous: Digest of the receipt before it; `first_link` of the session for the first.
        through: The last frame that it reaches: no later receipt covers a result up to it.
        count: Results that it covers, at least one.
        total: Results that the session's receipts cover up to and with this one.
        root: Merkle root of `result_leaf` of those that it covers, in the order of their frames.
        rows, row_bytes: Credit for the session so far: see `CreditedResult`.
        issued_unix_s: When.
    """

    coordinator: bytes
    node: bytes
    session: bytes
    manifest: bytes
    number: int
    previous: bytes
    through: int
    count: int
    total: int
    root: bytes
    rows: int
    row_bytes: int
    issued_unix_s: int


@dataclass(frozen=True, slots=True)
class Acknowledgement(CanonicalStatement, kind="acknowledgement", form="32s"):
    """What a node signs when a receipt, and all before it in its session, say what it did.

    Attributes:
        receipt: Digest of the receipt.
    """

    receipt: bytes


def first_link(session: bytes) -> bytes:
    """What the first receipt of a session names as the one before it."""
    return sha256(domain_tag("receipt-chain") + session).digest()


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt and the coordinator's signature over it."""

    receipt: Receipt
    signature: bytes

    BYTES: ClassVar[int] = Receipt.BYTES + SIGNATURE_BYTES

    @classmethod
    def signed(cls, receipt: Receipt, identity: Identity) -> SignedReceipt:
        """The receipt as its coordinator signs it."""
        return cls(receipt, identity.sign(receipt.encode()))

    def verify(self) -> None:
        """Returns when the coordinator that the receipt names has signed it.

        Raises:
            WeakKeyError: when that coordinator's key is none.
            SignatureError: when the signature does not hold.
        """
        VerifyingKey(self.receipt.coordinator).verify(self.signature, self.receipt.encode())

    def encode(self) -> bytes:
        """The canonical bytes."""
        return self.receipt.encode() + self.signature

    @classmethod
    def decode(cls, data: bytes) -> SignedReceipt:
        """Reads what `encode` made.

        Raises:
            ReceiptFormError: when the bytes are anything else.
        """
        reader = ByteReader(data, ReceiptFormError)
        try:
            receipt = Receipt.decode(reader.take(Receipt.BYTES))
        except StatementError as error:
            raise ReceiptFormError(error.message) from error
        signature = reader.take(SIGNATURE_BYTES)
        reader.finish()
        return cls(receipt, signature)


@dataclass(frozen=True, slots=True)
class ReceiptChain:
    """Whom the receipts of one session are between, and what they are about.

    Attributes:
        coordinator, node: Their public keys.
        session: The link's session id.
        manifest: Digest of the model's manifest.
    """

    coordinator: bytes
    node: bytes
    session: bytes
    manifest: bytes

    def next(
        self, previous: Receipt | None, results: Sequence[CreditedResult], through: int, issued_unix_s: int
    ) -> Receipt:
        """The receipt that follows another, None for the first, and covers these results.

        Raises:
            ReceiptError: when there are no results, or they are not in the order of frames behind the last receipt.
        """
        before = previous.through if previous else 0
        numbers = [before, *(result.sequence for result in results), through + 1]
        if not results or any(later <= earlier for earlier, later in itertools.pairwise(numbers)):
            raise ReceiptError(
                "a receipt covers results of frames behind the last one, in order, at least one"
            )
        return Receipt(
            coordinator=self.coordinator,
            node=self.node,
            session=self.session,
            manifest=self.manifest,
            number=previous.number + 1 if previous else 1,
            previous=previous.digest() if previous else first_link(self.session),
            through=through,
            count=len(results),
            total=(previous.total if previous else 0) + len(results),
            root=merkle.root([result.leaf for result in results]),
            rows=(previous.rows if previous else 0) + sum(result.rows for result in results),
            row_bytes=(previous.row_bytes if previous else 0) + sum(result.row_bytes for result in results),
            issued_unix_s=issued_unix_s,
        )

    def check(
        self,
        signed: SignedReceipt,
        previous: Receipt | None,
        answered: Sequence[CreditedResult],
        omitted: Collection[int],
    ) -> None:
        """Returns when a receipt is the coordinator's, follows the one before it, and covers what was answered.

        Args:
            signed: What came.
            previous: The receipt before it, checked already; None for the first of a session.
            answered: The node's own results behind `previous`, in the order of their frames.
            omitted: Frames of which the coordinator says that it accepted no result.

        Raises:
            ReceiptError: when the receipt says anything else than it should; the message says what.
            SignatureError: when the signature does not hold.
        """
        receipt = signed.receipt
        VerifyingKey(self.coordinator).verify(signed.signature, receipt.encode())
        accepted = [
            result
            for result in answered
            if result.sequence <= receipt.through and result.sequence not in omitted
        ]
        if receipt.count != len(accepted):
            raise ReceiptError(
                f"receipt {receipt.number} covers {receipt.count} results up to frame {receipt.through}, "
                f"and {len(accepted)} were answered that it does not name as omitted"
            )
        expected = self.next(previous, accepted, receipt.through, receipt.issued_unix_s)
        if receipt == expected:
            return
        wrong = [name for name in Receipt.__slots__ if getattr(receipt, name) != getattr(expected, name)]
        raise ReceiptError(f"receipt {receipt.number} is not as it must be in: {', '.join(wrong)}")
