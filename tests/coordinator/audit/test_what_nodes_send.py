"""What nodes send, taken apart: a result or an opening of which anything was changed is refused for a reason that has a name, or is what
was signed after all; it takes no longer than one that is right."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.coordinator.audit.question import Question
from folkmoot.coordinator.audit.selection import Selection
from folkmoot.coordinator.dispatch.acceptance import Expected, accept, reason_of
from folkmoot.coordinator.dispatch.challenge import SentChallenge
from folkmoot.coordinator.dispatch.verified_result import VerifiedResult
from folkmoot.errors import TrustError, WireError
from folkmoot.ids import ExpertKey
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.tests.support.asked_node import AskedNode
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.trust.audit_statements import OpeningKind

LIMIT_S = 20.0
MODEL = MemoryExperts(hidden=16, intermediate=12)
NODE = AskedNode(MODEL, bytes(32))
SPEC = MODEL.manifest.spec_of(ExpertKey(0, 0))


@cache
def opened() -> tuple[Question, link_pb2.Opening]:
    """A question, and its honest opening."""
    verified = NODE.result(0, rows=3)
    question = Question.about(verified, Selection((), np.arange(3), verified.pairs), OpeningKind.RAW)
    answers: list[Any] = []
    NODE.answer(SentChallenge(question.message(1.0), 3, 1.0, answers.append))
    return question, answers[0]


@cache
def result() -> VerifiedResult:
    return NODE.result(0, rows=3)


def mutated(data: st.DataObject, encoded: bytes) -> bytes:
    """Bytes with some of them changed, left out, put in or moved."""
    changed = bytearray(encoded)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "swap"])):
            case "flip":
                changed[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del changed[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                changed[at:at] = data.draw(st.binary(min_size=1, max_size=40))
            case "swap":
                changed[at:] = changed[at:][::-1]
        if not changed:
            return b""
    return bytes(changed)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_whatever_comes_as_an_opening_is_refused_or_is_what_was_signed(data: st.DataObject) -> None:
    question, opening = opened()
    honest = question.read(opening, SPEC, MODEL.manifest)
    other, began_s = link_pb2.Opening(), time.monotonic()
    try:
        other.ParseFromString(mutated(data, opening.SerializeToString()))
        found = question.read(other, SPEC, MODEL.manifest)
    except (WireError, TrustError, DecodeError):
        found = None
    assert time.monotonic() - began_s < LIMIT_S
    if found is not None:
        for one, true in zip(found, honest, strict=True):
            assert one.gate is not None and true.gate is not None
            assert one.gate.tobytes() == true.gate.tobytes() and one.up.tobytes() == true.up.tobytes()


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_whatever_comes_as_a_result_is_refused_or_is_what_was_signed(data: st.DataObject) -> None:
    verified = result()
    expected = Expected(verified.task, NODE.key)
    honest = accept(verified.result, expected).output
    other, began_s = link_pb2.Result(), time.monotonic()
    try:
        other.ParseFromString(mutated(data, verified.result.SerializeToString()))
        accepted = accept(other, expected).output
    except DecodeError:
        accepted = None
    except (WireError, TrustError) as error:
        assert reason_of(error)
        accepted = None
    assert time.monotonic() - began_s < LIMIT_S
    if accepted is not None:
        assert accepted.numpy().tobytes() == honest.numpy().tobytes()


@given(st.lists(st.integers(0, 2**32 - 1), max_size=9), st.integers(0, 2**64 - 1), st.integers(-5, 99))
@settings(deadline=None)
def test_sizes_that_are_only_claimed_cost_nothing(shape: list[int], length: int, dtype: int) -> None:
    question, opening = opened()
    verified, claimed = result(), link_pb2.Opening()
    claimed.CopyFrom(opening)
    answer = link_pb2.Result()
    answer.CopyFrom(verified.result)
    began_s = time.monotonic()
    for tensor in (claimed.gate, claimed.up, answer.output):
        del tensor.shape[:]
        tensor.shape.extend(shape)
        tensor.length = length
        tensor.dtype = dtype  # type: ignore[assignment]
    for read in (
        lambda: question.read(claimed, SPEC, MODEL.manifest),
        lambda: accept(answer, Expected(verified.task, NODE.key)),
    ):
        try:
            read()
        except (WireError, TrustError):
            continue
        raise AssertionError("these shapes are nobody's")
    assert time.monotonic() - began_s < LIMIT_S
