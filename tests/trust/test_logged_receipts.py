"""Proven: a receipt that stands in a batch of the public log is shown to by its bytes alone; one that does not, or of which any
bit was changed, is not; and bytes that are no such proof raise nothing but the error that says so."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.errors import TrustError
from folkmoot.trust import merkle
from folkmoot.trust.keys import Identity, SignatureError
from folkmoot.trust.log_entries import EnrolmentEntry, LogEntry
from folkmoot.trust.log_tiles import LogError
from folkmoot.trust.logged_receipts import LoggedReceipt, batch_entry, batch_leaf, batch_of
from folkmoot.trust.receipts import (
    CreditedResult,
    ReceiptChain,
    ReceiptError,
    ReceiptFormError,
    SignedReceipt,
)

COORDINATOR, OTHER = Identity(b"c" * 32), Identity(b"o" * 32)


def receipt(number: int, by: Identity = COORDINATOR) -> SignedReceipt:
    """The first of a session of its own."""
    chain = ReceiptChain(by.public, bytes([7 - number]) * 32, bytes([number]) * 32, b"m" * 32)
    return SignedReceipt.signed(chain.next(None, [CreditedResult(1, b"l" * 32, 3, 4)], 1, 5), by)


BATCH = batch_of([receipt(number) for number in range(5)])
ENTRY = LogEntry.signed(batch_entry(COORDINATOR.public, BATCH, 9), COORDINATOR)


def logged(place: int) -> LoggedReceipt:
    proof = merkle.inclusion_proof([batch_leaf(one) for one in BATCH], place)
    return LoggedReceipt(BATCH[place], place, tuple(proof), ENTRY.encode(), 12)


def test_a_batch_is_ordered_by_node_and_session() -> None:
    assert [one.receipt.node for one in BATCH] == sorted(one.receipt.node for one in BATCH)


@pytest.mark.parametrize("place", range(5))
def test_each_receipt_of_a_batch_is_shown(place: int) -> None:
    one = logged(place)
    assert one.check() == ENTRY.statement
    assert LoggedReceipt.decode(one.encode()) == one


def test_what_is_not_in_the_batch_is_not_shown() -> None:
    one = logged(2)
    stranger = receipt(6)
    for wrong in (
        dataclasses.replace(one, signed=stranger),
        dataclasses.replace(one, place=3),
        dataclasses.replace(one, proof=one.proof[:-1]),
        dataclasses.replace(one, signed=SignedReceipt(one.signed.receipt, stranger.signature)),
    ):
        with pytest.raises(TrustError):
            wrong.check()


def test_a_batch_of_another_coordinator_shows_nothing() -> None:
    foreign = LogEntry.signed(batch_entry(OTHER.public, BATCH, 9), OTHER)
    with pytest.raises(LogError):
        dataclasses.replace(logged(1), entry=foreign.encode()).check()
    forged = LogEntry.signed(ENTRY.statement, OTHER)
    with pytest.raises(SignatureError):
        dataclasses.replace(logged(1), entry=forged.encode()).check()


def test_an_entry_of_another_kind_is_none() -> None:
    other = LogEntry.signed(
        EnrolmentEntry(COORDINATOR.public, OTHER.public, b"s" * 32, 1), COORDINATOR
    ).encode()
    with pytest.raises(ReceiptError):
        dataclasses.replace(logged(1), entry=other).check()


@pytest.mark.parametrize("change", [{"proof": (b"",)}, {"proof": (b"h" * 32,) * 64}, {"entry": b""}], ids=str)
def test_what_cannot_be_one_is_not_written(change: dict[str, tuple[bytes, ...]]) -> None:
    with pytest.raises(ReceiptFormError):
        dataclasses.replace(logged(1), **change).encode()  # type: ignore[arg-type]  # the point


@given(st.data())
def test_any_bit_flipped_is_refused(data: st.DataObject) -> None:
    encoded = logged(data.draw(st.integers(0, 4))).encode()
    index_bits = 64
    bit = data.draw(st.integers(index_bits, 8 * len(encoded) - 1))
    flipped = (int.from_bytes(encoded) ^ 1 << bit).to_bytes(len(encoded))
    with pytest.raises(TrustError):
        LoggedReceipt.decode(flipped).check()


@given(st.binary(max_size=900), st.integers(0, 700))
def test_whatever_comes_raises_nothing_else(tail: bytes, kept: int) -> None:
    for given_bytes in (tail, logged(1).encode()[:kept] + tail):
        try:
            found = LoggedReceipt.decode(given_bytes)
        except ReceiptFormError:
            continue
        assert found.encode() == given_bytes
