"""Proven: every bit of every statement of receipts, audits and the log is covered by its signature, bytes and fields determine
each other, and a chain of receipts takes only the results that were answered, in their order, after the receipt before."""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.trust import audit_statements, receipts
from folkmoot.trust.audit_statements import ChallengeStatement, OpeningStatement, VerdictStatement
from folkmoot.trust.canonical import CanonicalStatement
from folkmoot.trust.keys import (
    BadSignatureError,
    Identity,
    MissingSignatureError,
    SignatureError,
    WeakKeyError,
)
from folkmoot.trust.log_entries import CreditEntry, EnrolmentEntry, ReceiptsEntry
from folkmoot.trust.receipts import (
    Acknowledgement,
    CreditedResult,
    Receipt,
    ReceiptChain,
    ReceiptError,
    ReceiptFormError,
    SignedReceipt,
)
from folkmoot.trust.statements import ResultStatement, StatementError, TaskStatement

NODE = Identity(bytes(range(32)))
COORDINATOR = Identity(b"c" * 32)
OTHER = Identity(bytes(32))
SESSION = b"s" * 32
CHAIN = ReceiptChain(COORDINATOR.public, NODE.public, SESSION, b"m" * 32)
WIDE = st.binary(min_size=32, max_size=32)
KINDS = (
    Receipt,
    Acknowledgement,
    EnrolmentEntry,
    ReceiptsEntry,
    CreditEntry,
    ChallengeStatement,
    OpeningStatement,
    VerdictStatement,
)
LIMITS = {"kind": 2**32 - 1}


def drawn(data: st.DataObject, kind: type[CanonicalStatement]) -> Any:
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]  # all kinds are dataclasses
    return kind(**{field.name: data.draw(values(field)) for field in fields})


def values(field: dataclasses.Field[Any]) -> st.SearchStrategy[Any]:
    return WIDE if field.type == "bytes" else st.integers(0, LIMITS.get(field.name, 2**64 - 1))


def credited(sequence: int, output: int | None = None) -> CreditedResult:
    statement = ResultStatement(bytes([sequence if output is None else output]) * 32, b"o" * 32, 0)
    return CreditedResult(sequence, receipts.result_leaf(statement), rows=sequence, row_bytes=1000 * sequence)


def results(*sequences: int) -> list[CreditedResult]:
    return [credited(sequence) for sequence in sequences]


def signed(receipt: Receipt, by: Identity = COORDINATOR) -> SignedReceipt:
    return SignedReceipt.signed(receipt, by)


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_bytes_and_fields_determine_each_other(kind: type[CanonicalStatement], data: st.DataObject) -> None:
    statement = drawn(data, kind)
    encoded = statement.encode()
    assert len(encoded) == kind.BYTES
    assert kind.decode(encoded) == statement
    assert kind.decode(encoded).encode() == encoded


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_any_bit_flipped_is_refused(kind: type[CanonicalStatement], data: st.DataObject) -> None:
    """The signature no longer holds, and the bytes are another statement or none."""
    statement = drawn(data, kind)
    encoded = statement.encode()
    signature = NODE.sign(encoded)
    NODE.verifying_key.verify(signature, encoded)
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    flipped = (int.from_bytes(encoded) ^ 1 << bit).to_bytes(len(encoded))
    with pytest.raises(BadSignatureError):
        NODE.verifying_key.verify(signature, flipped)
    if flipped[:32] != kind.TAG:
        with pytest.raises(StatementError):
            kind.decode(flipped)
    else:
        assert kind.decode(flipped) != statement


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_any_field_changed_breaks_the_signature(kind: type[CanonicalStatement], data: st.DataObject) -> None:
    statement = drawn(data, kind)
    signature = NODE.sign(statement.encode())
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        before = getattr(statement, field.name)
        after = data.draw(values(field).filter(functools.partial(operator.ne, before)))
        with pytest.raises(BadSignatureError):
            NODE.verifying_key.verify(
                signature, dataclasses.replace(statement, **{field.name: after}).encode()
            )


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_a_field_of_the_wrong_width_or_range_is_refused(
    kind: type[CanonicalStatement], data: st.DataObject
) -> None:
    statement = drawn(data, kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        wrong: st.SearchStrategy[Any] = st.binary(max_size=70).filter(lambda value: len(value) != 32)
        if field.type != "bytes":
            wrong = st.sampled_from([-1, 2**64])
        changed = dataclasses.replace(statement, **{field.name: data.draw(wrong)})
        with pytest.raises(StatementError):
            changed.encode()


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_whatever_comes_as_a_statement_raises_nothing_else(
    kind: type[CanonicalStatement], data: st.DataObject
) -> None:
    rest = st.binary(min_size=kind.BYTES - 32, max_size=kind.BYTES - 32)
    given_bytes = data.draw(st.binary(max_size=400) | rest.map(lambda tail: kind.TAG + tail))
    try:
        statement = kind.decode(given_bytes)
    except StatementError:
        return
    assert statement.encode() == given_bytes


def test_each_kind_has_a_tag_of_its_own() -> None:
    tags = {kind.TAG for kind in KINDS}
    assert len(tags) == len(KINDS)
    assert all(tag.startswith(b"folkmoot/v1/") and len(tag) == 32 for tag in tags)


def test_the_bytes_are_those_of_version_one() -> None:
    """A change here is a change of the protocol: it needs a new version in every tag."""
    receipt = Receipt(b"c" * 32, b"n" * 32, SESSION, b"m" * 32, 3, b"p" * 32, 17, 2, 9, b"r" * 32, 40, 50, 60)
    assert receipt.encode() == b"".join(
        (
            b"folkmoot/v1/receipt".ljust(32, b"\0"),
            b"c" * 32 + b"n" * 32 + SESSION + b"m" * 32,
            (3).to_bytes(8, "big"),
            b"p" * 32,
            *(number.to_bytes(8, "big") for number in (17, 2, 9)),
            b"r" * 32,
            *(number.to_bytes(8, "big") for number in (40, 50, 60)),
        )
    )


@given(WIDE, WIDE, st.integers(0, 2**32 - 1), st.binary(max_size=400))
def test_results_and_tasks_come_back_from_their_bytes(
    task: bytes, output: bytes, status: int, other: bytes
) -> None:
    result = ResultStatement(task, output, status)
    assert ResultStatement.decode(result.encode()) == result
    stated = TaskStatement(task, output, task, 5, output, "a profile", 1, 2, 3, task, output, status)
    assert TaskStatement.decode(stated.encode(), "a profile") == stated
    with pytest.raises(StatementError):
        TaskStatement.decode(stated.encode(), "another")
    for parse in (ResultStatement.decode, lambda data: TaskStatement.decode(data, "p")):
        with pytest.raises(StatementError):
            parse(other)


def test_a_chain_of_receipts_holds() -> None:
    previous = None
    for number, (sequences, through) in enumerate([((1, 2, 3), 3), ((5,), 8), ((9, 11), 11)], 1):
        receipt = CHAIN.next(previous, results(*sequences), through, 7)
        assert (receipt.number, receipt.count) == (number, len(sequences))
        CHAIN.check(signed(receipt), previous, results(*sequences, through + 1), ())
        previous = receipt
    assert previous is not None
    assert (previous.total, previous.rows, previous.row_bytes) == (6, 31, 31_000)


@pytest.mark.parametrize("answered", [(1, 2), (1, 2, 4, 6), (2, 4, 5), ()], ids=str)
def test_a_receipt_covers_exactly_what_was_answered(answered: tuple[int, ...]) -> None:
    receipt = CHAIN.next(None, results(1, 2, 4), 6, 7)
    CHAIN.check(signed(receipt), None, results(1, 2, 4), ())
    with pytest.raises(ReceiptError):
        CHAIN.check(signed(receipt), None, results(*answered), ())


def test_what_is_omitted_has_to_be_named() -> None:
    answered = results(1, 2, 3, 4)
    receipt = CHAIN.next(None, results(1, 2, 4), 4, 7)
    with pytest.raises(ReceiptError, match="omitted"):
        CHAIN.check(signed(receipt), None, answered, ())
    with pytest.raises(ReceiptError, match="root"):
        CHAIN.check(signed(receipt), None, answered, {2})
    CHAIN.check(signed(receipt), None, answered, {3, 77})


@pytest.mark.parametrize(
    "covered",
    [
        [credited(1), credited(2), credited(3, output=9)],
        [credited(1), credited(2, output=3), credited(3, output=2)],
    ],
    ids=["another output", "swapped"],
)
def test_a_receipt_over_other_results_is_refused(covered: list[CreditedResult]) -> None:
    receipt = CHAIN.next(None, covered, 3, 7)
    with pytest.raises(ReceiptError, match="root"):
        CHAIN.check(signed(receipt), None, results(1, 2, 3), ())


@pytest.mark.parametrize(
    "change",
    [
        {"number": 3},
        {"previous": b"x" * 32},
        {"total": 5},
        {"count": 1},
        {"through": 2},
        {"session": b"t" * 32},
        {"manifest": b"n" * 32},
        {"coordinator": OTHER.public},
        {"node": OTHER.public},
        {"rows": 5},
        {"row_bytes": 5999},
    ],
    ids=str,
)
def test_a_receipt_that_does_not_follow_is_refused_though_signed(change: dict[str, Any]) -> None:
    first = CHAIN.next(None, results(1), 1, 7)
    second = CHAIN.next(first, results(2, 3), 3, 7)
    CHAIN.check(signed(second), first, results(2, 3), ())
    with pytest.raises(ReceiptError):
        CHAIN.check(signed(dataclasses.replace(second, **change)), first, results(2, 3), ())


def test_a_receipt_needs_its_coordinators_signature() -> None:
    receipt = CHAIN.next(None, results(1), 1, 7)
    for signature, error in ((b"", MissingSignatureError), (NODE.sign(receipt.encode()), BadSignatureError)):
        with pytest.raises(SignatureError) as caught:
            CHAIN.check(SignedReceipt(receipt, signature), None, results(1), ())
        assert caught.type is error


@pytest.mark.parametrize(
    ("sequences", "through"), [((), 5), ((2, 1), 2), ((1, 1), 2), ((0, 1), 1), ((1, 2), 1)], ids=str
)
def test_no_receipt_covers_nothing_or_frames_out_of_order(sequences: tuple[int, ...], through: int) -> None:
    with pytest.raises(ReceiptError):
        CHAIN.next(None, results(*sequences), through, 7)


@given(st.binary(max_size=400), st.data())
def test_whatever_comes_as_a_signed_receipt_raises_nothing_else(other: bytes, data: st.DataObject) -> None:
    one = signed(CHAIN.next(None, results(1, 2), 2, 7))
    encoded = one.encode()
    assert SignedReceipt.decode(encoded) == one
    cut = data.draw(st.integers(0, len(encoded) - 1))
    for wrong in (other, encoded[:cut], encoded + other[:9] + b"x"):
        with pytest.raises(ReceiptFormError):
            SignedReceipt.decode(wrong)
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    flipped = (int.from_bytes(encoded) ^ 1 << bit).to_bytes(len(encoded))
    try:
        found = SignedReceipt.decode(flipped)
    except ReceiptFormError:
        return
    with pytest.raises((BadSignatureError, WeakKeyError)):
        found.verify()


def test_the_first_receipt_belongs_to_its_session() -> None:
    assert receipts.first_link(SESSION) != receipts.first_link(b"t" * 32)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=6), st.lists(st.integers(0, 2**32 - 1), max_size=6))
def test_a_rows_digest_names_the_rows_and_their_order(rows: list[int], others: list[int]) -> None:
    same = audit_statements.rows_digest(rows) == audit_statements.rows_digest(others)
    assert same == (rows == others)


@pytest.mark.parametrize("row", [-1, 2**32])
def test_a_row_out_of_range_is_refused(row: int) -> None:
    with pytest.raises(StatementError):
        audit_statements.rows_digest([row])


@pytest.mark.parametrize(
    ("error", "expected"),
    [(0.0, 0), (0.0152, 15200), (1.5, 1500000), (float("nan"), 2**63 - 1), (float("inf"), 2**63 - 1)],
)
def test_an_error_is_stated_in_millionths(error: float, expected: int) -> None:
    assert abs(audit_statements.millionths(error) - expected) <= 1
