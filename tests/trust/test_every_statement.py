"""Proven for every kind of statement that is signed, found by looking for them and not from a list: its bytes say its fields and
nothing else; with any bit flipped in any of them the signature is refused; bytes of another kind, length or tag are no such
statement; and nothing but a statement error is ever raised."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot import trust
from folkmoot.trust.canonical import CanonicalStatement
from folkmoot.trust.keys import BadSignatureError, Identity
from folkmoot.trust.statements import (
    RESULT_BYTES,
    TASK_BYTES,
    ResultStatement,
    StatementError,
    TaskStatement,
)

SIGNER = Identity(bytes(range(32)))
PROFILE = "float32-accumulate/1"
WIDTHS = {"I": 4, "Q": 8}
KNOWN = {
    "receipt",
    "acknowledgement",
    "log-enrolment",
    "log-receipts",
    "log-credit",
    "challenge",
    "opening",
    "verdict",
}
"""Kinds that must be among those that are found."""


def all_kinds() -> list[type[CanonicalStatement]]:
    """Every kind of canonical statement in the package."""
    for module in pkgutil.iter_modules(trust.__path__):
        importlib.import_module(f"{trust.__name__}.{module.name}")
    found: dict[bytes, type[CanonicalStatement]] = {}
    waiting = list(CanonicalStatement.__subclasses__())
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        # A dataclass with slots is made twice; the class that has the slots is the one that is used.
        made: Any = kind
        if hasattr(made, "TAG") and dataclasses.is_dataclass(made) and "__slots__" in vars(made):
            found[kind.TAG] = kind
    return [found[tag] for tag in sorted(found)]


KINDS = all_kinds()


def codes(kind: type[CanonicalStatement]) -> list[str]:
    """One `struct` code for each field."""
    form = kind._FORM.format.removeprefix(">32s").strip()
    return (
        form.replace("32s", "s")
        .replace(" ", "")
        .replace("s", "s ")
        .replace("Q", "Q ")
        .replace("I", "I ")
        .split()
    )


def drawn(kind: type[CanonicalStatement], data: st.DataObject) -> Any:
    """A statement with any fields."""
    values = [
        data.draw(
            st.binary(min_size=32, max_size=32)
            if code == "s"
            else st.integers(0, 2 ** (8 * WIDTHS[code]) - 1)
        )
        for code in codes(kind)
    ]
    return kind(*values)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_all_kinds_are_found() -> None:
    names = {kind.TAG.rstrip(b"\0").decode().removeprefix("folkmoot/v1/") for kind in KINDS}
    assert names >= KNOWN, KNOWN - names
    for kind in KINDS:
        assert len(codes(kind)) == len(dataclasses.fields(kind)), kind  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_bit_flipped_in_any_field_is_refused(kind: type[CanonicalStatement], data: st.DataObject) -> None:
    statement = drawn(kind, data)
    encoded = statement.encode()
    signature = SIGNER.sign(encoded)
    SIGNER.verifying_key.verify(signature, encoded)
    assert kind.decode(encoded) == statement
    at = 32
    for field, code in zip(dataclasses.fields(statement), codes(kind), strict=True):
        width = 32 if code == "s" else WIDTHS[code]
        bit = data.draw(st.integers(8 * at, 8 * (at + width) - 1), field.name)
        changed = flipped(encoded, bit)
        other = kind.decode(changed)
        differing = [
            name.name
            for name in dataclasses.fields(statement)
            if getattr(other, name.name) != getattr(statement, name.name)
        ]
        assert differing == [field.name], "each bit belongs to one field"
        assert other.encode() == changed
        with pytest.raises(BadSignatureError):
            SIGNER.verifying_key.verify(signature, other.encode())
        at += width
    assert at == len(encoded) == kind.BYTES
    with pytest.raises(StatementError):
        kind.decode(flipped(encoded, data.draw(st.integers(0, 8 * 32 - 1), "tag")))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(tail=st.binary(max_size=600), cut=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_whatever_else_comes_as_a_statement_is_none(
    kind: type[CanonicalStatement], tail: bytes, cut: int
) -> None:
    whole = (kind.TAG + tail).ljust(kind.BYTES, b"x")[: kind.BYTES]
    for wrong in (tail, kind.TAG + tail, whole[:-cut], whole + tail[:cut] + b"x", bytes(32) + whole[32:]):
        if len(wrong) == kind.BYTES and wrong.startswith(kind.TAG):
            assert kind.decode(wrong).encode() == wrong
        else:
            with pytest.raises(StatementError):
                kind.decode(wrong)


def test_no_kind_is_taken_for_another() -> None:
    tags = [kind.TAG for kind in KINDS]
    assert len(set(tags)) == len(tags)
    for kind in KINDS:
        for other in KINDS:
            if other is not kind:
                with pytest.raises(StatementError):
                    other.decode(kind.TAG + bytes(other.BYTES - 32))


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_bit_flipped_in_a_task_or_result_is_refused(data: st.DataObject) -> None:
    wide = st.binary(min_size=32, max_size=32)
    small, large = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
    task = TaskStatement(
        data.draw(wide),
        data.draw(wide),
        data.draw(wide),
        data.draw(large),
        data.draw(wide),
        PROFILE,
        data.draw(small),
        data.draw(small),
        data.draw(small),
        data.draw(wide),
        data.draw(wide),
        data.draw(large),
    )
    result = ResultStatement(task.digest(), data.draw(wide), data.draw(small))
    signature = SIGNER.sign(result.encode())
    changed = flipped(task.encode(), data.draw(st.integers(0, 8 * TASK_BYTES - 1)))
    try:
        other = TaskStatement.decode(changed, PROFILE)
    except StatementError:
        assert changed[:32] != task.encode()[:32] or changed[168:200] != task.encode()[168:200]
    else:
        assert other != task and other.encode() == changed
        with pytest.raises(BadSignatureError):
            SIGNER.verifying_key.verify(signature, dataclasses.replace(result, task=other.digest()).encode())
    changed = flipped(result.encode(), data.draw(st.integers(0, 8 * RESULT_BYTES - 1)))
    try:
        another = ResultStatement.decode(changed)
    except StatementError:
        assert changed[:32] != result.encode()[:32]
    else:
        with pytest.raises(BadSignatureError):
            SIGNER.verifying_key.verify(signature, another.encode())


@given(st.binary(max_size=TASK_BYTES + 40), st.text(st.characters(codec="utf-8"), max_size=20))
def test_whatever_comes_as_a_task_or_result_raises_nothing_else(data: bytes, profile: str) -> None:
    for decode in (lambda: TaskStatement.decode(data, profile), lambda: ResultStatement.decode(data)):
        with pytest.raises(StatementError):
            decode()
