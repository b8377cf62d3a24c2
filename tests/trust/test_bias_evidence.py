"""Proven: a bias that no single row shows is proven offline by many signed rows and the public model; an honest node is not, however it
rounds, whichever of its rows are picked and however they were made; nor is anybody by evidence of which any part was changed. Bytes
that are no evidence are malformed, and nothing else is ever raised."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.ids import ExpertKey
from folkmoot.tests.support.plain_experts import HONEST, answer, heavy_rows, random_expert
from folkmoot.trust.audit_statements import VerdictKind, VerdictStatement
from folkmoot.trust.bias import round_to, rounded_answers, weigh_bias
from folkmoot.trust.bias_evidence import MAX_ROWS, BiasEvidence, CountedFrame
from folkmoot.trust.evidence_check import Outcome, PublicModel, Step, check_bytes
from folkmoot.trust.expert_arithmetic import (
    Activation,
    Doubles,
    ExpertForm,
    ExpertRows,
    ExpertWeights,
    Floats,
)
from folkmoot.trust.keys import Identity
from folkmoot.trust.recompute import Tolerance, recompute
from folkmoot.trust.signed_frame import MalformedEvidenceError, SignedFrame, StatedRouting
from folkmoot.trust.stated_tensors import StatedTensor, StatedType
from folkmoot.trust.statements import ResultStatement, TaskStatement, manifest_statement

HIDDEN, INTERMEDIATE, ROWS, FRAMES, LAYER = 256, 128, 13, 9, 5
FORM = ExpertForm(Activation.SWIGLU)
MANIFEST = b'{"a": "manifest"}'
DIGEST = hashlib.sha256(MANIFEST).digest()
COORDINATOR, NODE, OTHER = (Identity(bytes([n]) * 32) for n in range(1, 4))
DIRECTION = np.ones(HIDDEN) / np.sqrt(HIDDEN)
COUNTED = tuple(row for row in range(ROWS) if row != 4)

Change = Callable[[Doubles], Doubles]


@cache
def weights(expert: int) -> ExpertWeights:
    return random_expert(FORM, HIDDEN, INTERMEDIATE, expert)


MODEL = PublicModel(MANIFEST, lambda key: (FORM, weights(key.expert)) if key.expert < 2 else None)


def routing(rows: int) -> StatedRouting:
    """Each row through both experts."""
    return StatedRouting(
        np.repeat(np.arange(2, dtype="<i4"), rows).tobytes(),
        np.tile(np.arange(rows, dtype="<i4"), 2).tobytes(),
        np.concatenate([np.full(rows, 0.7), np.full(rows, 0.3)]).astype("<f4").tobytes(),
    )


def tilted(output: Doubles) -> Doubles:
    return np.asarray(output + 0.003 * np.linalg.norm(output, axis=1, keepdims=True) * DIRECTION)


def signed_frame(sequence: int, rows: Floats, output: Doubles, signer: Identity = NODE) -> SignedFrame:
    shape = rows.shape
    sent = StatedTensor(StatedType.FLOAT32, shape, rows.astype("<f4").tobytes())
    signed = StatedTensor(StatedType.FLOAT32, shape, output.astype("<f4").tobytes())
    routed = routing(len(rows))
    task = TaskStatement(
        COORDINATOR.public,
        signer.public,
        b"s" * 32,
        sequence,
        DIGEST,
        "float32-accumulate/1",
        LAYER,
        len(rows),
        HIDDEN,
        routed.digest(),
        sent.digest(),
        5000,
    )
    result = ResultStatement(task.digest(), signed.digest(), 0)
    return SignedFrame(task, result, signer.sign(result.encode()), sent, routed, signed)


def frame(sequence: int, change: Change, *, honest: str = "bfloat16") -> SignedFrame:
    rows = heavy_rows(ROWS, HIDDEN, sequence)
    pairs = routing(ROWS).by_expert(ROWS)
    assert pairs is not None
    output, _ = answer(FORM, [weights(0), weights(1)], pairs, rows, HONEST[honest])
    return signed_frame(sequence, rows, change(np.asarray(output, np.float64)))


def evidence_of(frames: list[SignedFrame], rows: tuple[int, ...] = COUNTED) -> BiasEvidence:
    last = frames[-1]
    verdict = VerdictStatement(
        COORDINATOR.public,
        last.task.node,
        last.task.manifest,
        last.task.digest(),
        last.result.output,
        VerdictKind.BIASED,
        3000,
        1500,
        1,
    )
    return BiasEvidence(
        tuple(CountedFrame(one, rows) for one in frames),
        COORDINATOR.sign(manifest_statement(DIGEST)),
        verdict,
        COORDINATOR.sign(verdict.encode()),
    )


@cache
def evidence(change: Change = tilted, honest: str = "bfloat16") -> BiasEvidence:
    return evidence_of([frame(1 + number, change, honest=honest) for number in range(FRAMES)])


def unchanged(output: Doubles) -> Doubles:
    return output


def scaled(output: Doubles) -> Doubles:
    return output * 1.003


def check(one: BiasEvidence, model: PublicModel = MODEL, operator: bytes | None = None) -> list[Step]:
    return list(check_bytes(one.encode(), model, operator))


STEPS = ["manifest", "operator", "frames", "tasks", "inputs", "outputs", "results", "signatures", "rows"]


@pytest.mark.parametrize("change", [tilted, scaled], ids=["direction", "scale"])
def test_a_bias_is_proven_from_bytes_and_the_public_model(change: Change) -> None:
    steps = check(evidence(change), operator=COORDINATOR.public)
    assert [step.name for step in steps] == ["file", *STEPS, "verdict", "recomputation"]
    assert steps[-1].outcome is Outcome.PROVEN, steps[-1].detail


@pytest.mark.parametrize("honest", sorted(HONEST))
def test_an_honest_node_is_not_proven_biased(honest: str) -> None:
    assert check(evidence(unchanged, honest))[-1].outcome is Outcome.NOT_PROVEN


def all_pairs(count: int) -> list[ExpertRows]:
    return routing(count).by_expert(count) or []


def test_rows_that_were_picked_for_their_rounding_prove_nothing() -> None:
    """Of many honest rows those whose errors point one way: together they look biased, by as much as picking can make them."""
    rows = heavy_rows(4000, 64, 1)
    small = [random_expert(FORM, 64, 96, number) for number in range(2)]
    exact = recompute(FORM, small.__getitem__, rows, all_pairs(len(rows)))
    honest = rounded_answers(FORM, small.__getitem__, rows, all_pairs(len(rows)))[-1].astype(np.float32)
    errors = (honest - exact.output) / exact.sizes[:, None]
    _, _, directions = np.linalg.svd(errors, full_matrices=False)
    picked = np.sort(np.argsort(-(errors @ directions[0]))[:120])
    found = weigh_bias(
        FORM, small.__getitem__, rows[picked], honest[picked], all_pairs(len(picked)), Tolerance()
    )
    assert found.enough and found.drift > Tolerance().drift, "picking does make them look biased"
    assert not found.biased


def test_rows_that_are_nearly_the_same_prove_nothing() -> None:
    """Their honest roundings are nearly the same too, so nothing averages out."""
    one = heavy_rows(1, HIDDEN, 1)
    rows = np.repeat(one, 120, axis=0)
    rows[:, 7] *= 1 + np.arange(120) * 1e-6
    honest = rounded_answers(FORM, weights, rows, all_pairs(120))[-1].astype(np.float32)
    found = weigh_bias(FORM, weights, rows, honest, all_pairs(120), Tolerance())
    assert found.enough and found.drift > Tolerance().drift
    assert not found.biased


def moved(one: BiasEvidence, **changes: object) -> BiasEvidence:
    """With another last frame, whose statements fit together but for what was changed."""
    last = one.frames[-1]
    return replace(one, frames=(*one.frames[:-1], replace(last, frame=replace(last.frame, **changes))))  # type: ignore[arg-type]


def resigned(one: BiasEvidence, **changes: object) -> BiasEvidence:
    verdict = replace(one.verdict, **changes)  # type: ignore[arg-type]
    return replace(one, verdict=verdict, verdict_signature=COORDINATOR.sign(verdict.encode()))


def altered(tensor: StatedTensor) -> StatedTensor:
    return replace(tensor, data=bytes([tensor.data[0] ^ 1]) + tensor.data[1:])


def of_another(one: BiasEvidence) -> BiasEvidence:
    stranger = signed_frame(99, heavy_rows(ROWS, HIDDEN, 99), np.ones((ROWS, HIDDEN)), OTHER)
    return replace(one, frames=(CountedFrame(stranger, COUNTED), *one.frames))


def the_same_rows(one: BiasEvidence) -> BiasEvidence:
    first = one.frames[0].frame
    again = signed_frame(98, first.input.values(), first.output.values())
    return replace(one, frames=(CountedFrame(again, COUNTED), *one.frames))


TAMPERED: dict[str, tuple[str, Callable[[BiasEvidence], BiasEvidence]]] = {
    "manifest signed by another": (
        "operator",
        lambda one: replace(one, manifest_signature=OTHER.sign(manifest_statement(DIGEST))),
    ),
    "a frame of another node": ("frames", of_another),
    "a frame twice": ("frames", lambda one: replace(one, frames=(one.frames[-1], *one.frames))),
    "the same rows in another frame": ("rows", the_same_rows),
    "too few rows": ("rows", lambda one: replace(one, frames=one.frames[-2:])),
    "another routing": ("tasks", lambda one: moved(one, routing=routing(ROWS - 1))),
    "another input": ("inputs", lambda one: moved(one, input=altered(one.frames[-1].frame.input))),
    "another output": ("outputs", lambda one: moved(one, output=altered(one.frames[-1].frame.output))),
    "no signature": ("signatures", lambda one: moved(one, signature=bytes(64))),
    "verdict of another kind": ("verdict", lambda one: resigned(one, kind=VerdictKind.WRONG)),
    "verdict on another result": ("verdict", lambda one: resigned(one, output=b"o" * 32)),
    "unsigned verdict": ("verdict", lambda one: replace(one, verdict=replace(one.verdict, decided_unix_s=2))),
}


@pytest.mark.parametrize("change", TAMPERED)
def test_evidence_that_was_changed_ends_at_the_step_that_sees_it(change: str) -> None:
    step, tamper = TAMPERED[change]
    steps = check(tamper(evidence()))
    assert (steps[-1].name, steps[-1].outcome) == (step, Outcome.NOT_PROVEN)


def test_another_model_or_operator_proves_nothing() -> None:
    for model, step in (
        (replace(MODEL, manifest=b"{}"), "manifest"),
        (replace(MODEL, weights_of=lambda _: None), "recomputation"),
    ):
        assert check(evidence(), model)[-1].name == step
        assert check(evidence(), model)[-1].outcome is Outcome.NOT_PROVEN
    assert check(evidence(), operator=OTHER.public)[-1].name == "operator"


def no_weights(key: ExpertKey) -> None:
    raise AssertionError(f"{key} is asked for, so all signatures held")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_bit_flipped_proves_nothing(data: st.DataObject) -> None:
    encoded = bytearray(evidence().encode())
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    steps = list(check_bytes(bytes(encoded), PublicModel(MANIFEST, lambda _: None), COORDINATOR.public))
    assert not steps[-1].held
    # Which rows count is the coordinator's choice, and no signature covers it.
    assert steps[-1].name != "recomputation" or _in_counted_rows(bit // 8)


def _in_counted_rows(at: int) -> bool:
    start = 32 + 4
    for one in evidence().frames:
        start += len(one.frame.encode_frame())
        if start <= at < start + 4 + 4 * len(one.rows):
            return True
        start += 4 + 4 * len(one.rows)
    return False


def test_evidence_survives_its_bytes() -> None:
    one = evidence()
    assert BiasEvidence.decode(one.encode()) == one


@given(st.data())
@settings(deadline=None)
def test_a_file_of_another_length_is_malformed(data: st.DataObject) -> None:
    encoded = evidence().encode()
    cut = data.draw(st.integers(32, len(encoded) - 1))
    for wrong in (encoded[:cut], encoded + data.draw(st.binary(min_size=1, max_size=9))):
        steps = list(check_bytes(wrong, MODEL))
        assert (steps[-1].name, steps[-1].outcome) == ("file", Outcome.MALFORMED)


@given(st.binary(max_size=400))
def test_whatever_comes_as_evidence_raises_nothing_else(tail: bytes) -> None:
    for data in (tail, evidence().encode()[:32] + tail, evidence().encode()[:900] + tail):
        with pytest.raises(MalformedEvidenceError):
            BiasEvidence.decode(data)


@pytest.mark.parametrize("rows", [(), (1, 1), (2, 1), (0, ROWS), tuple(range(ROWS, MAX_ROWS))])
def test_rows_that_cannot_count_are_not_written(rows: tuple[int, ...]) -> None:
    with pytest.raises(MalformedEvidenceError):
        evidence_of([evidence().frames[0].frame], rows).encode()


@given(st.lists(st.floats(width=32, allow_subnormal=False), min_size=1, max_size=40))
def test_rounding_to_eight_bits_is_that_of_bfloat16(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    expected = nearest.astype(np.uint32).view(np.float32)
    small = np.isfinite(values) & np.isfinite(expected)
    assert round_to(values.astype(np.float64), 8)[small].tolist() == expected[small].tolist()
