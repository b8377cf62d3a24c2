"""Proven: evidence against a cheat is proven offline by its bytes and the public model alone; evidence against an
honest node is not, nor is evidence of which any part was changed; bytes that are no evidence are malformed, and
nothing else is ever raised."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.ids import ExpertKey
from folkmoot.protos.folkmoot.v1 import tensor_pb2
from folkmoot.tests.support.plain_experts import HONEST, Cheat, answer, cheated, heavy_rows, random_expert
from folkmoot.trust.audit_statements import VerdictKind, VerdictStatement
from folkmoot.trust.evidence import Evidence
from folkmoot.trust.evidence_check import Outcome, PublicModel, Step, check_bytes, check_evidence
from folkmoot.trust.expert_arithmetic import Activation, ExpertForm, ExpertWeights
from folkmoot.trust.keys import Identity
from folkmoot.trust.signed_frame import MalformedEvidenceError, StatedRouting
from folkmoot.trust.stated_tensors import StatedTensor, StatedType
from folkmoot.trust.statements import ResultStatement, StatementError, TaskStatement, manifest_statement

HIDDEN, INTERMEDIATE, ROWS, LAYER = 64, 96, 3, 5
FORM = ExpertForm(Activation.SWIGLU)
MANIFEST = b'{"a": "manifest"}'
DIGEST = hashlib.sha256(MANIFEST).digest()
COORDINATOR, NODE, OTHER = (Identity(bytes([n]) * 32) for n in range(1, 4))
ROUTING = StatedRouting(
    np.array([0, 0, 1, 1], "<i4").tobytes(),
    np.array([0, 2, 1, 2], "<i4").tobytes(),
    np.array([0.7, 0.6, 1.0, 0.4], "<f4").tobytes(),
)


def weights_of(key: ExpertKey) -> tuple[ExpertForm, ExpertWeights] | None:
    if key.layer != LAYER or key.expert > 1:
        return None
    return FORM, random_expert(FORM, HIDDEN, INTERMEDIATE, key.expert)


MODEL = PublicModel(MANIFEST, weights_of)
NO_EXPERTS = PublicModel(MANIFEST, lambda _: None)


@cache
def evidence(honest: bool = False) -> Evidence:
    """Against a node that computes with int4 weights, or with the true ones."""
    rows = heavy_rows(ROWS, HIDDEN, 1)
    held = [random_expert(FORM, HIDDEN, INTERMEDIATE, expert) for expert in range(2)]
    pairs = ROUTING.by_expert(ROWS)
    assert pairs is not None
    used = held if honest else [cheated(weights, Cheat.INT4) for weights in held]
    signed, _ = answer(FORM, used, pairs, rows, HONEST["bfloat16"])
    sent = StatedTensor(StatedType.FLOAT32, (ROWS, HIDDEN), rows.astype("<f4").tobytes())
    output = StatedTensor(StatedType.FLOAT32, (ROWS, HIDDEN), signed.astype("<f4").tobytes())
    task = TaskStatement(
        COORDINATOR.public,
        NODE.public,
        b"s" * 32,
        9,
        DIGEST,
        "float32-accumulate/1",
        LAYER,
        ROWS,
        HIDDEN,
        ROUTING.digest(),
        sent.digest(),
        5000,
    )
    result = ResultStatement(task.digest(), output.digest(), 0)
    verdict = VerdictStatement(
        COORDINATOR.public,
        NODE.public,
        DIGEST,
        task.digest(),
        output.digest(),
        VerdictKind.WRONG,
        150_000,
        7_000,
        1,
    )
    return Evidence(
        task,
        result,
        NODE.sign(result.encode()),
        sent,
        ROUTING,
        output,
        COORDINATOR.sign(manifest_statement(DIGEST)),
        verdict,
        COORDINATOR.sign(verdict.encode()),
    )


def ends(steps: list[Step]) -> tuple[str, Outcome | None]:
    """The last step's name and the outcome; all before it held and had none."""
    assert all(step.held and step.outcome is None for step in steps[:-1])
    return steps[-1].name, steps[-1].outcome


STEPS = ["manifest", "operator", "task", "input", "output", "result", "signature", "verdict", "recomputation"]


def test_a_cheat_is_proven_from_bytes_and_the_public_model() -> None:
    encoded = evidence().encode()
    steps = list(check_bytes(encoded, MODEL, COORDINATOR.public))
    assert [step.name for step in steps] == ["file", *STEPS]
    assert ends(steps) == ("recomputation", Outcome.PROVEN)
    assert all(step.detail for step in steps)


def test_an_honest_node_is_not_proven_wrong_whatever_the_coordinator_says() -> None:
    steps = list(check_evidence(evidence(honest=True), MODEL))
    assert ends(steps) == ("recomputation", Outcome.NOT_PROVEN)


def test_evidence_survives_its_bytes() -> None:
    one = evidence()
    assert Evidence.decode(one.encode()) == one
    assert Evidence.decode(one.encode()).encode() == one.encode()


def resigned(one: Evidence, **changes: Any) -> Evidence:
    """With another verdict that is properly signed."""
    verdict = replace(one.verdict, **changes)
    return replace(one, verdict=verdict, verdict_signature=COORDINATOR.sign(verdict.encode()))


def rerouted(one: Evidence, routing: StatedRouting) -> Evidence:
    return replace(one, routing=routing, task=replace(one.task, routing=routing.digest()))


def other_tensor(tensor: StatedTensor) -> StatedTensor:
    return replace(tensor, data=bytes([tensor.data[0] ^ 1]) + tensor.data[1:])


SWAPPED = StatedRouting(ROUTING.experts[::-1], ROUTING.rows, ROUTING.gates)
BEYOND = replace(ROUTING, rows=np.array([0, 3, 1, 2], "<i4").tobytes())
NO_NUMBER = replace(ROUTING, gates=np.array([0.7, np.nan, 1.0, 0.4], "<f4").tobytes())

TAMPERED: dict[str, tuple[str, Callable[[Evidence], Evidence]]] = {
    "another manifest": ("manifest", lambda one: replace(one, task=replace(one.task, manifest=b"x" * 32))),
    "manifest signed by another": (
        "operator",
        lambda one: replace(one, manifest_signature=OTHER.sign(manifest_statement(DIGEST))),
    ),
    "small-order operator": (
        "operator",
        lambda one: replace(one, task=replace(one.task, coordinator=bytes(32))),
    ),
    "unknown profile": ("task", lambda one: replace(one, task=replace(one.task, profile="float16/1"))),
    "other routing": ("task", lambda one: replace(one, routing=SWAPPED)),
    "routing out of order": ("task", lambda one: rerouted(one, SWAPPED)),
    "routing beyond the rows": ("task", lambda one: rerouted(one, BEYOND)),
    "gate that is no number": ("task", lambda one: rerouted(one, NO_NUMBER)),
    "no pairs": ("task", lambda one: rerouted(one, StatedRouting(b"", b"", b""))),
    "other input": ("input", lambda one: replace(one, input=other_tensor(one.input))),
    "other output": ("output", lambda one: replace(one, output=other_tensor(one.output))),
    "other task": ("result", lambda one: replace(one, task=replace(one.task, sequence=10))),
    "refused": ("result", lambda one: replace(one, result=replace(one.result, status=1))),
    "no signature": ("signature", lambda one: replace(one, signature=bytes(64))),
    "signed by another": (
        "signature",
        lambda one: replace(one, signature=OTHER.sign(one.result.encode())),
    ),
    "verdict on another task": ("verdict", lambda one: resigned(one, task=b"t" * 32)),
    "verdict that clears": ("verdict", lambda one: resigned(one, kind=VerdictKind.CLEARED)),
    "unsigned verdict": ("verdict", lambda one: replace(one, verdict=replace(one.verdict, decided_unix_s=2))),
}


@pytest.mark.parametrize("change", TAMPERED)
def test_evidence_that_was_changed_ends_at_the_step_that_sees_it(change: str) -> None:
    step, tamper = TAMPERED[change]
    changed = tamper(evidence())
    assert ends(list(check_evidence(changed, MODEL))) == (step, Outcome.NOT_PROVEN)
    assert Evidence.decode(changed.encode()) == changed


def test_a_model_that_is_another_or_lacks_the_experts_proves_nothing() -> None:
    for model, step in (
        (replace(MODEL, manifest=MANIFEST + b" "), "manifest"),
        (NO_EXPERTS, "recomputation"),
        (replace(MODEL, weights_of=lambda _: (FORM, random_expert(FORM, 32, 32, 1))), "recomputation"),
        (
            replace(MODEL, weights_of=lambda key: weights_of(key) if key.expert == 0 else None),
            "recomputation",
        ),
    ):
        assert ends(list(check_evidence(evidence(), model))) == (step, Outcome.NOT_PROVEN)


def test_only_the_named_operators_word_counts() -> None:
    assert ends(list(check_evidence(evidence(), MODEL, OTHER.public))) == ("operator", Outcome.NOT_PROVEN)


def test_outcomes_are_exit_codes() -> None:
    assert [outcome.exit_code for outcome in Outcome] == [0, 1, 2]
    assert MalformedEvidenceError.exit_code == Outcome.MALFORMED.exit_code


@given(st.data())
@settings(max_examples=300)
def test_any_bit_flipped_proves_nothing(data: st.DataObject) -> None:
    encoded = evidence().encode()
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    flipped = (int.from_bytes(encoded) ^ 1 << bit).to_bytes(len(encoded))
    steps = list(check_bytes(flipped, NO_EXPERTS, COORDINATOR.public))
    assert not steps[-1].held
    assert steps[-1].name != "recomputation"


@given(st.data())
def test_a_file_of_another_length_is_malformed(data: st.DataObject) -> None:
    encoded = evidence().encode()
    cut = data.draw(st.integers(0, len(encoded) - 1))
    for wrong in (encoded[:cut], encoded + data.draw(st.binary(min_size=1, max_size=9))):
        assert ends(list(check_bytes(wrong, MODEL))) == ("file", Outcome.MALFORMED)


@given(st.binary(max_size=400))
def test_whatever_comes_as_evidence_raises_nothing_else(tail: bytes) -> None:
    for data in (tail, evidence().encode()[:32] + tail, evidence().encode()[:900] + tail):
        with pytest.raises(MalformedEvidenceError):
            Evidence.decode(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": b""},
        {"routing": replace(ROUTING, gates=b"")},
        {"input": StatedTensor(StatedType.FLOAT32, (1, 1), bytes(4))},
    ],
    ids=["signature", "routing", "input"],
)
def test_evidence_that_does_not_fit_together_is_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvidenceError):
        replace(evidence(), **changes).encode()


def test_stated_types_are_the_wires() -> None:
    for kind in StatedType:
        assert int(tensor_pb2.DType.Value(f"DTYPE_{kind.name}")) == kind.value


def test_stated_numbers_are_exact() -> None:
    numbers = [1.5, -0.25, 96.0]
    for kind, data in (
        (StatedType.FLOAT32, np.array(numbers, "<f4").tobytes()),
        (StatedType.FLOAT16, np.array(numbers, "<f2").tobytes()),
        (StatedType.BFLOAT16, (np.array(numbers, "<f4").view("<u4") >> 16).astype("<u2").tobytes()),
    ):
        assert StatedTensor(kind, (3,), data).values().tolist() == numbers
    with pytest.raises(StatementError):
        StatedTensor(StatedType.FLOAT16, (3,), bytes(7))
