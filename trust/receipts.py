"""Receipts: a node's signature over its results, and the coordinator's over what it owes for them.

Guarantees: a step receipt covers the results of one step by the Merkle root of their statements and names the receipt
before it, so that the receipts of a session form one chain in which nothing can be left out, put in or moved; a
counter-signature names the receipt and the root of the results that were accepted, so a coordinator cannot later deny
them. Credits are cumulative within a session: the latest says all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import TrustError
from . import merkle
from .canonical import CanonicalStatement
from .keys import VerifyingKey
from .statements import ResultStatement, domain_tag


class ReceiptError(TrustError):
    """A receipt does not follow the one before it, or does not cover what it should."""


def results_root(results: Sequence[ResultStatement]) -> bytes:
    """The Merkle root of result statements in the order in which the node answered."""
    return merkle.root([result_leaf(result) for result in results])


def result_leaf(result: ResultStatement) -> bytes:
    """The leaf hash by which a result stands in a receipt's tree."""
    return merkle.leaf_hash(result.encode())


@dataclass(frozen=True, slots=True)
class StepReceipt(CanonicalStatement, kind="receipt", form="32s32s32sQ32sQQ32s"):
    """What a node signs when it has answered a step.

    Attributes:
        coordinator, node: Their public keys.
        session: The link's session id.
        number: Of this receipt within the session, from 1.
        previous: Digest of the receipt before it; `first_link` of the session for the first.
        count: Results that this receipt covers, at least one.
        total: Results that the session's receipts cover up to and with this one.
        root: `results_root` of them.
    """

    coordinator: bytes
    node: bytes
    session: bytes
    number: int
    previous: bytes
    count: int
    total: int
    root: bytes


def first_link(session: bytes) -> bytes:
    """What the first receipt of a session names as the one before it."""
    return hashlib.sha256(domain_tag("receipt-chain") + session).digest()


def next_receipt(
    coordinator: bytes,
    node: bytes,
    session: bytes,
    previous: StepReceipt | None,
    results: Sequence[ResultStatement],
) -> StepReceipt:
    """The receipt that a node signs for the results of a step.

    Raises:
        ReceiptError: when there are no results.
    """
    if not results:
        raise ReceiptError("a receipt covers at least one result")
    before = previous.total if previous else 0
    return StepReceipt(
        coordinator=coordinator,
        node=node,
        session=session,
        number=previous.number + 1 if previous else 1,
        previous=previous.digest() if previous else first_link(session),
        count=len(results),
        total=before + len(results),
        root=results_root(results),
    )


def check_receipt(
    receipt: StepReceipt,
    signature: bytes,
    key: VerifyingKey,
    previous: StepReceipt | None,
    results: Sequence[ResultStatement],
) -> None:
    """Returns when the receipt is the node's own, follows the one before it, and covers exactly these results.

    Args:
        receipt: What the node says it signed.
        signature: Its signature.
        key: The node's key.
        previous: The receipt before it, checked already; None for the first of a session.
        results: The statements that the coordinator made itself from what it received, in order.

    Raises:
        ReceiptError: when the receipt says anything else than it should.
        SignatureError: when the signature does not hold.
    """
    expected = next_receipt(receipt.coordinator, key.raw, receipt.session, previous, results)
    if previous is not None and (receipt.session, receipt.coordinator) != (
        previous.session,
        previous.coordinator,
    ):
        raise ReceiptError("the receipt is of another session than the one before it")
    if receipt != expected:
        raise ReceiptError(f"receipt {receipt.number} does not cover the results that came, in their order")
    key.verify(signature, receipt.encode())


@dataclass(frozen=True, slots=True)
class CounterSignature(CanonicalStatement, kind="counter-signature", form="32s32sQ32sQQ"):
    """What a coordinator signs when it has accepted what a receipt covers.

    Attributes:
        coordinator: Its public key.
        receipt: Digest of the step receipt.
        accepted: Results that it accepted.
        accepted_root: Merkle root of them; the receipt's own root when it accepted all.
        rows: Rows times experts that it credits: one for each row that one expert worked on.
        row_bytes: The sum over these of the expert's canonical bytes: what the work is measured by.
    """

    coordinator: bytes
    receipt: bytes
    accepted: int
    accepted_root: bytes
    rows: int
    row_bytes: int


@dataclass(frozen=True, slots=True)
class CreditStatement(CanonicalStatement, kind="credit", form="32s32s32s32sQ32sQQQ"):
    """What a coordinator owes a node for one session, up to a receipt; the latest of a session replaces all before it.

    Attributes:
        coordinator, node: Their public keys.
        manifest: Digest of the model's manifest.
        session: The link's session id.
        number: Of the receipt up to which credit is counted.
        receipt: Its digest.
        rows: Rows times experts credited in the session so far.
        row_bytes: The same, each weighed with the expert's canonical bytes.
        issued_unix_s: When.
    """

    coordinator: bytes
    node: bytes
    manifest: bytes
    session: bytes
    number: int
    receipt: bytes
    rows: int
    row_bytes: int
    issued_unix_s: int
