"""Proven of a session's books: every accepted result is in exactly one receipt, or its acceptance was refused; receipts are due after
so many results or so long, and reach only frames that ended a while ago; only a node's own agreement with a receipt that it was
given counts; memory is bounded."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.coordinator.ledger import session_book
from folkmoot.coordinator.ledger.session_book import Issued, SessionBook
from folkmoot.coordinator.ledger.settings import ReceiptSettings
from folkmoot.errors import UsageError
from folkmoot.trust.keys import BadSignatureError, Identity, MissingSignatureError
from folkmoot.trust.receipts import Acknowledgement, CreditedResult, ReceiptChain, ReceiptError

COORDINATOR, NODE, OTHER = (Identity(bytes([n]) * 32) for n in range(1, 4))
CHAIN = ReceiptChain(COORDINATOR.public, NODE.public, b"s" * 32, b"m" * 32)
SETTINGS = ReceiptSettings(results=4, every_s=10.0, settle_s=2.0)


def result(sequence: int) -> CreditedResult:
    return CreditedResult(sequence, sequence.to_bytes(32), 2, 100)


def book(settings: ReceiptSettings = SETTINGS) -> SessionBook:
    return SessionBook(CHAIN, COORDINATOR, settings, 0.0)


def accepted(one: SessionBook, *sequences: int) -> None:
    for sequence in sequences:
        assert one.accept(result(sequence))


def test_a_receipt_is_due_after_so_many_results() -> None:
    one = book()
    accepted(one, 1, 2, 3)
    one.ended(4, 1.0)
    assert one.issue(3.5, 7) is None
    accepted(one, 4)
    issued = one.issue(3.6, 7)
    assert issued is not None
    assert (issued.signed.receipt.count, issued.omitted, issued.rows, issued.row_bytes) == (4, (), 8, 400)
    assert one.issue(3.7, 7) is None


def test_a_receipt_is_due_after_so_long() -> None:
    one = book()
    accepted(one, 2)
    one.ended(3, 1.0)
    assert one.issue(9.9, 7) is None
    issued = one.issue(10.0, 7)
    assert issued is not None
    assert (issued.signed.receipt.through, issued.omitted) == (3, (1, 3))
    one.ended(9, 10.0)
    assert one.issue(99.0, 7) is None


def test_frames_that_have_just_ended_are_not_reached() -> None:
    """Their results may still be on their way through the checks."""
    one = book()
    one.ended(3, 9.0)
    one.ended(6, 10.0)
    accepted(one, 1, 3, 5, 6, 7)
    assert one.issue(10.5, 7) is None
    first = one.issue(11.0, 7)
    assert first is not None
    assert (first.signed.receipt.through, first.omitted) == (3, (2,))
    accepted(one, 4)
    one.ended(8, 20.0)
    second = one.issue(21.0, 7)
    assert second is not None
    assert (second.signed.receipt.through, second.signed.receipt.total, second.omitted) == (6, 5, ())
    CHAIN.check(second.signed, first.signed.receipt, [result(4), result(5), result(6), result(7)], ())


def test_what_comes_too_late_is_refused() -> None:
    one = book()
    accepted(one, 1, 3)
    assert one.close(4, 0.0, 7) is not None
    assert not one.accept(result(2))
    assert not one.accept(result(4))
    assert one.accept(result(5))
    assert one.waiting == 1
    assert one.newest == 5


def test_the_last_receipt_covers_what_is_left() -> None:
    one = book()
    assert one.close(9, 0.0, 7) is None
    accepted(one, 1, 2)
    issued = one.close(9, 0.0, 7)
    assert issued is not None
    assert issued.signed.receipt.through == 9
    assert one.close(9, 0.0, 7) is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_book, "MOST_RESULTS", 6)
    monkeypatch.setattr(session_book, "MOST_OPEN", 8)
    one = book(dataclasses.replace(SETTINGS, settle_s=100.0))
    accepted(one, 1, 2, 3, 4, 5)
    one.ended(5, 1.0)
    assert one.issue(2.0, 7) is None
    accepted(one, 6, 7, 8)
    assert not one.accept(result(9))
    issued = one.issue(2.0, 7)  # Before they have settled: rather that than ever more of them.
    assert issued is not None
    assert issued.signed.receipt.count == 5
    assert one.accept(result(9))


def given_receipts(one: SessionBook, count: int) -> list[Issued]:
    receipts = []
    for number in range(1, count + 1):
        accepted(one, number)
        issued = one.close(number, 0.0, 7)
        assert issued is not None
        receipts.append(issued)
    return receipts


def test_an_agreement_covers_all_before_it() -> None:
    one = book()
    digests = [issued.signed.receipt.digest() for issued in given_receipts(one, 3)]
    one.acknowledge(digests[1], NODE.sign(Acknowledgement(digests[1]).encode()), NODE.verifying_key)
    assert one.acknowledged == 2
    for digest in (digests[0], digests[1], bytes(32), b""):
        with pytest.raises(ReceiptError):
            one.acknowledge(digest, NODE.sign(b"any"), NODE.verifying_key)
    one.acknowledge(digests[2], NODE.sign(Acknowledgement(digests[2]).encode()), NODE.verifying_key)
    assert one.acknowledged == 3


def test_an_agreement_must_be_the_nodes() -> None:
    one = book()
    digest = given_receipts(one, 1)[0].signed.receipt.digest()
    statement = Acknowledgement(digest).encode()
    for signature, error in (
        (OTHER.sign(statement), BadSignatureError),
        (NODE.sign(digest), BadSignatureError),
        (b"", MissingSignatureError),
    ):
        with pytest.raises(error):
            one.acknowledge(digest, signature, NODE.verifying_key)
    assert one.acknowledged == 0


def test_receipts_that_a_node_never_agrees_with_are_forgotten_in_the_end() -> None:
    one = book()
    receipts = given_receipts(one, session_book.MOST_UNACKNOWLEDGED + 1)
    first, last = receipts[0].signed.receipt.digest(), receipts[-1].signed.receipt.digest()
    with pytest.raises(ReceiptError):
        one.acknowledge(first, NODE.sign(Acknowledgement(first).encode()), NODE.verifying_key)
    one.acknowledge(last, NODE.sign(Acknowledgement(last).encode()), NODE.verifying_key)


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 3)), max_size=40))
def test_whatever_the_order_each_accepted_result_is_in_one_receipt(steps: list[tuple[int, int]]) -> None:
    """The node's check of the whole chain takes exactly what was accepted."""
    one, now_s, through, taken, receipts = book(), 0.0, 0, {}, []
    for sequence, ends in steps:
        now_s += 1.0
        if sequence not in taken and one.accept(result(sequence)):
            taken[sequence] = result(sequence)
        through = max(through, min(12, through + ends))
        one.ended(through, now_s)
        receipts.append(one.issue(now_s, 7))
    receipts.append(one.close(12, now_s, 7))
    issued = [receipt for receipt in receipts if receipt is not None]
    assert one.waiting == 0
    previous = None
    for receipt in issued:
        before = previous.through if previous is not None else 0
        rest = [taken[sequence] for sequence in sorted(taken) if sequence > before]
        CHAIN.check(receipt.signed, previous, rest, receipt.omitted)
        assert not set(receipt.omitted) & set(taken)
        previous = receipt.signed.receipt
    assert sum(receipt.signed.receipt.count for receipt in issued) == len(taken)
    assert sum(receipt.row_bytes for receipt in issued) == 100 * len(taken)


@pytest.mark.parametrize(
    "wrong", [{"results": 0}, {"every_s": 0.0}, {"tick_s": -1.0}, {"results": 1 << 20}], ids=str
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        ReceiptSettings(**wrong)  # type: ignore[arg-type]  # the point
