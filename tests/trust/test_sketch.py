"""Proven: projections are the same bits everywhere and differ with everything that they are derived from; a sketch is
the projection of the weights, survives its bytes exactly, and no other bytes are taken for one."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.tests.support.plain_experts import random_expert
from folkmoot.trust.expert_arithmetic import Activation, ExpertForm, ExpertWeights
from folkmoot.trust.projections import Projections, ProjectionsError, derive_projections
from folkmoot.trust.sketch import ExpertSketch, SketchError, sketch_expert

HIDDEN, INTERMEDIATE = 24, 16
ARGUMENTS: dict[str, Any] = {
    "secret": bytes(range(32)),
    "epoch": 1,
    "manifest": b"m" * 32,
    "layer": 3,
    "hidden": HIDDEN,
    "intermediate": INTERMEDIATE,
    "count": 4,
}
ARRAYS = ("gate", "up", "down", "gate_bias", "up_bias", "down_bias")


def projections(**changes: Any) -> Projections:
    return derive_projections(**(ARGUMENTS | changes))


def a_sketch(activation: Activation = Activation.CLAMPED_SWIGLU) -> ExpertSketch:
    weights = random_expert(ExpertForm(activation), HIDDEN, INTERMEDIATE, 1)
    return sketch_expert(projections(), weights)


def test_projections_are_these_very_bits() -> None:
    """A change here makes every sketch that was kept useless: raise the version in the tag."""
    made = projections(hidden=512, intermediate=352, count=8)
    bits = made.inner.astype("<f4").tobytes() + made.outer.astype("<f4").tobytes()
    assert (
        hashlib.sha256(bits).hexdigest() == "7c5b8ab33ebaae86fa6632680e6a8499acb1449cd22ae163e6d48a2492786dd3"
    )
    assert made.identity.hex() == "255f6283b203bc746c7fe6d095d7a78472158d4c32df9a91456eecde35812ce0"


def test_projections_look_gaussian() -> None:
    numbers = projections(hidden=20000, intermediate=20000, count=8).inner.astype(np.float64)
    assert abs(numbers.mean()) < 0.01
    assert abs(numbers.std() - 1) < 0.01
    assert abs(np.mean(np.abs(numbers) < 0.6745) - 0.5) < 0.01
    assert abs(np.mean(numbers**4) - 2.9) < 0.05
    assert np.abs(numbers @ numbers.T / numbers.shape[1] - np.eye(8)).max() < 0.05


@pytest.mark.parametrize(
    "change",
    [
        {"secret": bytes(32)},
        {"epoch": 2},
        {"manifest": b"n" * 32},
        {"layer": 4},
        {"hidden": 25},
        {"count": 5},
    ],
    ids=str,
)
def test_projections_differ_with_what_they_are_derived_from(change: dict[str, Any]) -> None:
    one, other = projections(), projections(**change)
    assert one.identity != other.identity
    assert not np.isin(one.inner, other.inner).all()
    assert projections().identity == one.identity


@pytest.mark.parametrize(
    "change",
    [
        {"secret": b""},
        {"manifest": b"short"},
        {"count": 0},
        {"count": 65},
        {"hidden": 0},
        {"intermediate": -1},
        {"epoch": -1},
        {"layer": 2**32},
    ],
    ids=str,
)
def test_projections_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ProjectionsError):
        projections(**change)


def test_neither_projections_nor_sketches_print_what_they_hold() -> None:
    assert "array" not in repr(projections()) + repr(a_sketch())


@pytest.mark.parametrize("activation", Activation)
def test_a_sketch_is_the_projection_of_the_weights(activation: Activation) -> None:
    weights = random_expert(ExpertForm(activation), HIDDEN, INTERMEDIATE, 1)
    made, sketch = projections(), sketch_expert(projections(), weights)
    expected = {
        "gate": None if weights.gate is None else made.inner @ weights.gate,
        "up": made.inner @ weights.up,
        "down": made.outer @ weights.down,
        "gate_bias": np.zeros(4) if weights.gate_bias is None else made.inner @ weights.gate_bias,
        "up_bias": np.zeros(4) if weights.up_bias is None else made.inner @ weights.up_bias,
        "down_bias": np.zeros(4) if weights.down_bias is None else made.outer @ weights.down_bias,
    }
    for name, array in expected.items():
        held = getattr(sketch, name)
        assert (held is None) == (array is None)
        if array is not None:
            assert held.dtype == np.float32
            np.testing.assert_allclose(held, array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", [Activation.CLAMPED_SWIGLU, Activation.RELU_SQUARED])
def test_a_sketch_survives_its_bytes(activation: Activation) -> None:
    sketch = a_sketch(activation)
    again = ExpertSketch.decode(sketch.encode())
    assert again.encode() == sketch.encode()
    assert again.projections == sketch.projections
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(again, name), getattr(sketch, name))


def test_weights_that_do_not_fit_are_refused() -> None:
    up, down = np.zeros((INTERMEDIATE, HIDDEN)), np.zeros((HIDDEN, INTERMEDIATE))
    for weights in (
        ExpertWeights(None, up.T, down),
        ExpertWeights(None, up, down.T),
        ExpertWeights(up[1:], up, down),
        ExpertWeights(np.full_like(up, np.nan), up, down),
    ):
        with pytest.raises(SketchError):
            sketch_expert(projections(), weights)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_sketch_with_a_number_that_is_none_is_refused(number: float) -> None:
    encoded = a_sketch().encode()
    with pytest.raises(SketchError):
        ExpertSketch.decode(encoded[:-4] + np.array([number], "<f4").tobytes())


@given(st.data())
def test_bytes_that_were_changed_are_another_sketch_or_none(data: st.DataObject) -> None:
    encoded = a_sketch().encode()
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    changed = (int.from_bytes(encoded) ^ 1 << bit).to_bytes(len(encoded))
    with contextlib.suppress(SketchError):
        assert ExpertSketch.decode(changed).encode() == changed
    cut = data.draw(st.integers(0, len(encoded) - 1))
    for wrong in (encoded[:cut], encoded + b"\0"):
        with pytest.raises(SketchError):
            ExpertSketch.decode(wrong)


@given(st.binary(max_size=300))
def test_whatever_comes_as_a_sketch_raises_nothing_else(tail: bytes) -> None:
    header = a_sketch().encode()[:64]
    for data in (tail, header + tail, header[:32] + tail):
        with pytest.raises(SketchError):
            ExpertSketch.decode(data)
