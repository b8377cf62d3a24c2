"""Proven: a statement's bytes change with every field, have one width and one kind, refuse what does not fit, and stay
what they were when the protocol was frozen."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.trust import statements
from folkmoot.trust.keys import BadSignatureError, Identity
from folkmoot.trust.statements import ResultStatement, StatementError, TaskStatement

NODE = Identity(bytes(range(32)))
WIDE = st.binary(min_size=32, max_size=32)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)

TASK_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "coordinator": WIDE,
    "node": WIDE,
    "session": WIDE,
    "sequence": U64,
    "manifest": WIDE,
    "profile": TEXT,
    "layer": U32,
    "rows": U32,
    "hidden": U32,
    "routing": WIDE,
    "input": WIDE,
    "deadline_ms": U64,
}
RESULT_FIELDS: dict[str, st.SearchStrategy[Any]] = {"task": WIDE, "output": WIDE, "status": U32}
FIELDS = {TaskStatement: TASK_FIELDS, ResultStatement: RESULT_FIELDS}
FUNCTIONS: dict[Callable[..., bytes], tuple[st.SearchStrategy[Any], ...]] = {
    statements.session_id: (WIDE, WIDE),
    statements.session_statement: (WIDE, WIDE, WIDE, st.binary(max_size=120)),
    statements.enrolment_statement: (WIDE, WIDE, WIDE, WIDE, TEXT, TEXT),
    statements.manifest_statement: (WIDE,),
    statements.ticket_statement: (WIDE, WIDE, U64),
    statements.tls_statement: (WIDE, WIDE),
}


def name_of(value: object) -> str:
    return str(getattr(value, "__name__", value))


def different(strategy: st.SearchStrategy[Any], value: object) -> st.SearchStrategy[Any]:
    """What the strategy draws, except this value."""
    return strategy.filter(lambda drawn: drawn != value)


def a_task(**changes: Any) -> TaskStatement:
    fields: dict[str, Any] = {
        "coordinator": b"c" * 32,
        "node": b"n" * 32,
        "session": b"s" * 32,
        "sequence": 7,
        "manifest": b"m" * 32,
        "profile": "float32-accumulate/1",
        "layer": 3,
        "rows": 4,
        "hidden": 2048,
        "routing": b"r" * 32,
        "input": b"i" * 32,
        "deadline_ms": 5000,
    }
    return TaskStatement(**(fields | changes))


def test_every_field_of_a_statement_is_tried() -> None:
    for kind, fields in FIELDS.items():
        assert [field.name for field in dataclasses.fields(kind)] == list(fields)


@given(st.data())
@pytest.mark.parametrize("kind", FIELDS, ids=name_of)
def test_any_field_changed_changes_the_bytes_and_breaks_the_signature(
    kind: type[Any], data: st.DataObject
) -> None:
    statement = kind(**{name: data.draw(strategy, name) for name, strategy in FIELDS[kind].items()})
    signature = NODE.sign(statement.encode())
    NODE.verifying_key.verify(signature, statement.encode())
    for name, strategy in FIELDS[kind].items():
        before = getattr(statement, name)
        after = data.draw(different(strategy, before), f"other {name}")
        changed = dataclasses.replace(statement, **{name: after})
        assert changed.encode() != statement.encode()
        assert len(changed.encode()) == len(statement.encode())
        with pytest.raises(BadSignatureError):
            NODE.verifying_key.verify(signature, changed.encode())


@given(st.data())
def test_any_field_of_a_task_changed_changes_its_digest(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(TASK_FIELDS)))
    task = a_task()
    other = data.draw(different(TASK_FIELDS[name], getattr(task, name)))
    assert dataclasses.replace(task, **{name: other}).digest() != task.digest()
    assert task.digest() == hashlib.sha256(task.encode()).digest()


@given(st.data())
@pytest.mark.parametrize("function", FUNCTIONS, ids=name_of)
def test_any_argument_changed_changes_the_statement(
    function: Callable[..., bytes], data: st.DataObject
) -> None:
    arguments = [data.draw(strategy) for strategy in FUNCTIONS[function]]
    statement = function(*arguments)
    for index, strategy in enumerate(FUNCTIONS[function]):
        changed = list(arguments)
        changed[index] = data.draw(different(strategy, arguments[index]))
        assert function(*changed) != statement
        assert len(function(*changed)) == len(statement)


@given(st.data())
@pytest.mark.parametrize("function", FUNCTIONS, ids=name_of)
def test_a_field_of_another_width_is_refused(function: Callable[..., bytes], data: st.DataObject) -> None:
    arguments = [data.draw(strategy) for strategy in FUNCTIONS[function]]
    index = data.draw(
        st.sampled_from([i for i, strategy in enumerate(FUNCTIONS[function]) if strategy is WIDE])
    )
    arguments[index] = data.draw(st.binary(max_size=70).filter(lambda value: len(value) != 32))
    with pytest.raises(StatementError):
        function(*arguments)


@pytest.mark.parametrize("wide", [name for name, strategy in TASK_FIELDS.items() if strategy is WIDE])
@pytest.mark.parametrize("value", [b"", b"x" * 31, b"x" * 33])
def test_a_task_field_is_never_padded_or_cut(wide: str, value: bytes) -> None:
    with pytest.raises(StatementError):
        a_task(**{wide: value}).encode()


@pytest.mark.parametrize("number", ["sequence", "layer", "rows", "hidden", "deadline_ms"])
@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_number_out_of_range_is_refused(number: str, value: int) -> None:
    with pytest.raises(StatementError):
        a_task(**{number: value}).encode()


@pytest.mark.parametrize(
    "result", [ResultStatement(b"t", b"o" * 32, 0), ResultStatement(b"t" * 32, b"o" * 32, -1)]
)
def test_a_result_that_does_not_fit_is_refused(result: ResultStatement) -> None:
    with pytest.raises(StatementError):
        result.encode()


def test_text_without_a_utf8_form_is_refused() -> None:
    with pytest.raises(StatementError):
        a_task(profile="\ud800").encode()


def test_no_statement_can_be_taken_for_another_kind() -> None:
    wide = b"\0" * 32
    encodings = [
        a_task().encode(),
        ResultStatement(wide, wide, 0).encode(),
        statements.session_statement(wide, wide, wide, b""),
        statements.enrolment_statement(wide, wide, wide, wide, "", ""),
        statements.manifest_statement(wide),
        statements.ticket_statement(wide, wide, 0),
        statements.tls_statement(wide, wide),
    ]
    tags = [encoding[:32] for encoding in encodings]
    assert len(set(tags)) == len(tags)
    assert all(tag.startswith(b"folkmoot/v1/") and tag.endswith(b"\0") for tag in tags)


def test_the_bytes_are_those_of_version_one() -> None:
    """A change here is a change of the protocol: it needs a new version in every tag."""
    task = a_task()
    assert task.encode() == b"".join(
        (
            b"folkmoot/v1/task".ljust(32, b"\0"),
            b"c" * 32 + b"n" * 32 + b"s" * 32,
            (7).to_bytes(8, "big"),
            b"m" * 32,
            hashlib.sha256(b"float32-accumulate/1").digest(),
            (3).to_bytes(4, "big") + (4).to_bytes(4, "big") + (2048).to_bytes(4, "big"),
            b"r" * 32 + b"i" * 32,
            (5000).to_bytes(8, "big"),
        )
    )
    result = ResultStatement(task.digest(), b"o" * 32, 0)
    tag = b"folkmoot/v1/result".ljust(32, b"\0")
    assert result.encode() == tag + task.digest() + b"o" * 32 + bytes(4)


def test_tensors_and_routings_are_digested_by_blake3_over_what_is_said() -> None:
    # The published test vectors: nothing, and one zero.
    assert blake3(b"").hexdigest() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert blake3(b"\0").hexdigest() == "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"
    tensor = b"folkmoot/v1/tensor".ljust(32, b"\0") + struct.pack(">II8QQ", 3, 2, 5, 7, *(0,) * 6, 4)
    assert statements.tensor_digest(3, (5, 7), b"data") == blake3(tensor + b"data").digest()
    routing = b"folkmoot/v1/routing".ljust(32, b"\0") + struct.pack(">QQQ", 1, 2, 3)
    assert statements.routing_digest(b"a", b"bc", b"def") == blake3(routing + b"abcdef").digest()


SHAPES = st.lists(U64, max_size=8).map(tuple)


@given(U32, SHAPES, st.binary(max_size=40), U32, SHAPES, st.binary(max_size=40))
def test_a_tensor_digest_names_dtype_shape_and_data(
    dtype: int, shape: tuple[int, ...], data: bytes, dtype2: int, shape2: tuple[int, ...], data2: bytes
) -> None:
    digest = statements.tensor_digest(dtype, shape, data)
    assert digest == statements.tensor_digest(dtype, shape, memoryview(data))
    for other in ((dtype2, shape, data), (dtype, shape2, data), (dtype, shape, data2)):
        assert (statements.tensor_digest(*other) == digest) == (other == (dtype, shape, data))


@pytest.mark.parametrize(("shape", "other"), [((), (0,)), ((2,), (2, 0)), ((2, 3), (3, 2)), ((6,), (1, 6))])
def test_shapes_that_look_alike_have_their_own_digests(
    shape: tuple[int, ...], other: tuple[int, ...]
) -> None:
    assert statements.tensor_digest(1, shape, b"") != statements.tensor_digest(1, other, b"")


@pytest.mark.parametrize(
    ("dtype", "shape"), [(-1, (1,)), (2**32, (1,)), (1, (-1,)), (1, (2**64,)), (1, (1,) * 9)]
)
def test_a_tensor_that_cannot_be_stated_is_refused(dtype: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(StatementError):
        statements.tensor_digest(dtype, shape, b"")


PARTS = st.tuples(*[st.binary(max_size=12)] * 3)


@given(PARTS, PARTS)
def test_a_routing_digest_names_its_parts_and_where_they_end(
    parts: tuple[bytes, bytes, bytes], others: tuple[bytes, bytes, bytes]
) -> None:
    digest = statements.routing_digest(*parts)
    assert (statements.routing_digest(*others) == digest) == (others == parts)
    joined = b"".join(parts)
    moved = (joined[:1], joined[1:2], joined[2:])
    assert (statements.routing_digest(*moved) == digest) == (moved == parts)


def test_digests_copy_no_buffer() -> None:
    big = bytearray(32 << 20)
    tracemalloc.start()
    try:
        statements.tensor_digest(1, (len(big),), memoryview(big))
        statements.routing_digest(memoryview(big), memoryview(big), memoryview(big))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
