"""Proven: every bit of every statement of receipts and audits is covered by its signature, bytes and fields determine
each other, and a chain of receipts takes only the results that came, in their order, after the receipt before."""

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
from folkmoot.trust.keys import BadSignatureError, Identity, MissingSignatureError, SignatureError
from folkmoot.trust.receipts import (
    CounterSignature,
    CreditStatement,
    ReceiptError,
    StepReceipt,
    check_receipt,
    next_receipt,
)
from folkmoot.trust.statements import ResultStatement, StatementError, TaskStatement

NODE = Identity(bytes(range(32)))
OTHER = Identity(bytes(32))
COORDINATOR = b"c" * 32
SESSION = b"s" * 32
WIDE = st.binary(min_size=32, max_size=32)
KINDS = (
    StepReceipt,
    CounterSignature,
    CreditStatement,
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


def some_results(*outputs: int) -> list[ResultStatement]:
    return [ResultStatement(bytes([output]) * 32, b"o" * 32, 0) for output in outputs]


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
    receipt = StepReceipt(COORDINATOR, b"n" * 32, SESSION, 3, b"p" * 32, 2, 9, b"r" * 32)
    assert receipt.encode() == b"".join(
        (
            b"folkmoot/v1/receipt".ljust(32, b"\0"),
            COORDINATOR + b"n" * 32 + SESSION,
            (3).to_bytes(8, "big"),
            b"p" * 32,
            (2).to_bytes(8, "big") + (9).to_bytes(8, "big"),
            b"r" * 32,
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
    for number, outputs in enumerate([(1, 2, 3), (4,), (5, 6)], 1):
        results = some_results(*outputs)
        receipt = next_receipt(COORDINATOR, NODE.public, SESSION, previous, results)
        assert (receipt.number, receipt.count) == (number, len(outputs))
        check_receipt(receipt, NODE.sign(receipt.encode()), NODE.verifying_key, previous, results)
        previous = receipt
    assert previous is not None
    assert previous.total == 6


@pytest.mark.parametrize("outputs", [(1, 2), (1, 3, 2), (1, 2, 3, 4), (1, 2, 4), (1, 1, 2, 3)])
def test_a_receipt_covers_exactly_what_came(outputs: tuple[int, ...]) -> None:
    receipt = next_receipt(COORDINATOR, NODE.public, SESSION, None, some_results(1, 2, 3))
    with pytest.raises(ReceiptError):
        check_receipt(receipt, NODE.sign(receipt.encode()), NODE.verifying_key, None, some_results(*outputs))


@pytest.mark.parametrize(
    "change",
    [
        {"number": 3},
        {"previous": b"x" * 32},
        {"total": 5},
        {"session": b"t" * 32},
        {"coordinator": b"d" * 32},
        {"node": OTHER.public},
    ],
    ids=str,
)
def test_a_receipt_that_does_not_follow_is_refused_though_signed(change: dict[str, Any]) -> None:
    first = next_receipt(COORDINATOR, NODE.public, SESSION, None, some_results(1))
    second = next_receipt(COORDINATOR, NODE.public, SESSION, first, some_results(2, 3))
    changed = dataclasses.replace(second, **change)
    with pytest.raises(ReceiptError):
        check_receipt(changed, NODE.sign(changed.encode()), NODE.verifying_key, first, some_results(2, 3))


def test_a_receipt_needs_its_nodes_signature() -> None:
    receipt = next_receipt(COORDINATOR, NODE.public, SESSION, None, some_results(1))
    for signature, error in ((b"", MissingSignatureError), (OTHER.sign(receipt.encode()), BadSignatureError)):
        with pytest.raises(SignatureError) as caught:
            check_receipt(receipt, signature, NODE.verifying_key, None, some_results(1))
        assert caught.type is error


def test_no_receipt_covers_nothing() -> None:
    with pytest.raises(ReceiptError):
        next_receipt(COORDINATOR, NODE.public, SESSION, None, [])


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
