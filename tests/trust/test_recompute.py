"""Proven: the float64 recomputation is what the kernels' oracle computes, honest arithmetics stay within the
tolerance and cheats do not, nobody is accused by numbers that are none, and a small fixed bias shows over many rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from folkmoot.kernels.formats import Activation as KernelActivation
from folkmoot.kernels.formats import ExpertSpec, Layout
from folkmoot.tests.support import expert_oracle
from folkmoot.tests.support.honest_samples import all_rows
from folkmoot.tests.support.plain_experts import (
    HONEST,
    Cheat,
    answer,
    bfloat16,
    cheated,
    heavy_rows,
    random_expert,
)
from folkmoot.trust.expert_arithmetic import (
    Activation,
    ExpertForm,
    ExpertRows,
    ExpertWeights,
    Floats,
    expert_output,
)
from folkmoot.trust.honest_rounding import RoundingSpread, rounding_deviation
from folkmoot.trust.recompute import Recomputed, Tolerance, compare, drift, recompute

HIDDEN, INTERMEDIATE, ROWS = 192, 128, 20
SWIGLU = ExpertForm(Activation.SWIGLU)
PAIRS = [*all_rows(ROWS, (0.7, 0.2)), ExpertRows(2, np.array([1, 4]), np.array([0.5, 1.5], np.float32))]


def experts(form: ExpertForm) -> list[ExpertWeights]:
    return [random_expert(form, HIDDEN, INTERMEDIATE, seed) for seed in range(3)]


def recomputed(form: ExpertForm, rows: Floats, pairs: Sequence[ExpertRows] = PAIRS) -> Recomputed:
    return recompute(form, experts(form).__getitem__, rows, pairs)


ORACLE = [
    (Layout.SEPARATE, KernelActivation.SWIGLU),
    (Layout.SEPARATE, KernelActivation.GEGLU_TANH),
    (Layout.INTERLEAVED_ROWS_BIASED, KernelActivation.CLAMPED_SWIGLU),
    (Layout.UNGATED, KernelActivation.RELU_SQUARED),
]


@pytest.mark.parametrize(("layout", "activation"), ORACLE)
def test_it_computes_what_the_kernels_oracle_does(layout: Layout, activation: KernelActivation) -> None:
    spec = ExpertSpec(24, 16, "float32", layout, activation, alpha=1.3, limit=0.9)
    data = expert_oracle.random_bytes(spec, 3)
    tensors, rows = expert_oracle.decoded(spec, data), np.random.default_rng(1).normal(size=(5, 24))
    both, bias = tensors.get("gate_up"), tensors.get("gate_up_bias")
    weights = ExpertWeights(
        tensors.get("gate") if both is None else both[0::2],
        tensors["up"] if both is None else both[1::2],
        tensors["down"],
        None if bias is None else bias[0::2],
        None if bias is None else bias[1::2],
        tensors.get("down_bias"),
    )
    form = ExpertForm(Activation(activation.value), spec.alpha, spec.limit)
    want = expert_oracle.oracle(spec, data, torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(expert_output(form, weights, rows), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("arithmetic", HONEST)
def test_honest_arithmetics_are_within_the_tolerance(activation: Activation, arithmetic: str) -> None:
    form, rows = ExpertForm(activation), heavy_rows(ROWS, HIDDEN, 5)
    output, _ = answer(form, experts(form), PAIRS, rows, HONEST[arithmetic])
    found = compare(output, recomputed(form, rows), Tolerance())
    assert found.wrong == ()


@pytest.mark.parametrize("cheat", Cheat)
def test_cheats_are_not(cheat: Cheat) -> None:
    rows = heavy_rows(ROWS, HIDDEN, 5)
    false = [cheated(weights, cheat) for weights in experts(SWIGLU)]
    output, _ = answer(SWIGLU, false, PAIRS, rows, HONEST["bfloat16"])
    found = compare(output, recomputed(SWIGLU, rows), Tolerance())
    assert len(found.wrong) > 0.75 * ROWS
    assert found.worst_error > found.worst_allowed >= 0.0070


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("seed", range(4))
def test_small_experts_that_round_badly_are_not_accused(activation: Activation, seed: int) -> None:
    """Of 32 neurons one may carry a row: honest errors are then up to 0.01, and the profile's tolerance alone would accuse."""
    form, rows, pairs = ExpertForm(activation), heavy_rows(1000, 64, seed), all_rows(1000)
    weights = [random_expert(form, 64, 32, seed)]
    output, _ = answer(form, weights, pairs, rows, HONEST["bfloat16"])
    truth = recompute(form, weights.__getitem__, rows, pairs)
    found = compare(output, truth, Tolerance())
    assert found.wrong == ()
    assert found.allowed.min() >= 0.0070
    assert 0.8 < np.sqrt(np.mean(np.square(found.errors * truth.sizes)) / np.mean(truth.rounding.mean)) < 1.2


def test_a_row_that_one_neuron_carries_is_allowed_no_more_than_it_can_round() -> None:
    spread = RoundingSpread(np.array([1.0, 1.0, 0.0]), np.array([2.0, 0.001, 0.0]))
    reach = spread.reach(1e-9)
    assert reach[0] == 3.0
    assert 1.0 < reach[1] < 1.2
    assert reach[2] == 0.0


def test_a_deviation_is_that_of_rounding() -> None:
    values = np.random.default_rng(1).normal(size=200_000) * 3
    measured = bfloat16(values).astype(np.float64) - values
    assert np.sqrt(np.mean(np.square(rounding_deviation(values, 8)))) == pytest.approx(
        measured.std(), rel=0.02
    )
    assert (np.abs(measured) <= rounding_deviation(values, 8) * np.sqrt(3) * 1.001).all()
    halves = values.astype(np.float16).astype(np.float64) - values
    large = np.abs(values) > 1e-3
    expected = np.sqrt(np.mean(np.square(rounding_deviation(values[large], 11))))
    assert expected == pytest.approx(halves[large].std(), rel=0.02)
    assert rounding_deviation(np.zeros(2), 8).tolist() == [0, 0]


def test_the_wrong_rows_are_named() -> None:
    rows = heavy_rows(ROWS, HIDDEN, 5)
    output, _ = answer(SWIGLU, experts(SWIGLU), PAIRS, rows, HONEST["float32"])
    output[7] *= np.float32(1.01)
    assert compare(output, recomputed(SWIGLU, rows), Tolerance()).wrong == (7,)
    assert compare(output, recomputed(SWIGLU, rows), Tolerance(row=0.02)).wrong == ()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_signed_number_that_is_none_is_wrong(value: float) -> None:
    rows = heavy_rows(ROWS, HIDDEN, 5)
    output, _ = answer(SWIGLU, experts(SWIGLU), PAIRS, rows, HONEST["float32"])
    output[3, 3] = value
    found = compare(output, recomputed(SWIGLU, rows), Tolerance())
    assert found.wrong == (3,)
    assert (found.worst, found.worst_error) == (3, math.inf)


def test_nobody_is_accused_where_the_truth_is_not_finite() -> None:
    rows = heavy_rows(ROWS, HIDDEN, 5)
    rows[2] = 3e38
    infinite = recomputed(SWIGLU, rows.astype(np.float64) * 1e200)
    assert 2 not in compare(np.zeros((ROWS, HIDDEN)), infinite, Tolerance()).wrong


def test_zeros_are_right_where_zeros_are_due_and_wrong_elsewhere() -> None:
    rows = heavy_rows(ROWS, HIDDEN, 5)
    rows[6] = 0
    found = compare(np.zeros((ROWS, HIDDEN)), recomputed(SWIGLU, rows), Tolerance())
    assert found.wrong == tuple(row for row in range(ROWS) if row != 6)


def test_experts_that_cancel_make_no_honest_node_a_cheat() -> None:
    """Two experts nearly alike, with gates 1 and -1: the sum is far smaller than each term, and so is not what errors
    are held against."""
    one = random_expert(SWIGLU, HIDDEN, INTERMEDIATE, 0)
    other = random_expert(SWIGLU, HIDDEN, INTERMEDIATE, 1)
    assert one.gate is not None and other.gate is not None
    near = replace(one, gate=bfloat16(one.gate + 0.02 * other.gate), up=bfloat16(one.up + 0.02 * other.up))
    weights = [one, near]
    rows, pairs = heavy_rows(ROWS, HIDDEN, 5), all_rows(ROWS, (1.0, -1.0))
    output, _ = answer(SWIGLU, weights, pairs, rows, HONEST["bfloat16"])
    found = compare(output, recompute(SWIGLU, weights.__getitem__, rows, pairs), Tolerance())
    assert found.errors.max() < 0.01
    assert found.wrong == ()


@pytest.mark.parametrize("bias", ["none", "scale", "direction"])
def test_a_bias_of_three_per_mille_shows_over_a_hundred_rows(bias: str) -> None:
    rows, pairs = heavy_rows(100, HIDDEN, 5), all_rows(100)
    output, _ = answer(SWIGLU, experts(SWIGLU)[:1], pairs, rows, HONEST["bfloat16"])
    truth = recomputed(SWIGLU, rows, pairs)
    direction = np.random.default_rng(1).normal(size=HIDDEN)
    lengths = np.linalg.norm(output, axis=1, keepdims=True)
    wide = output.astype(np.float64)
    if bias == "direction":
        wide += 0.003 * lengths * direction / np.linalg.norm(direction)
    if bias == "scale":
        wide *= 1.003
    assert len(compare(wide, truth, Tolerance()).wrong) < 5
    assert (drift(wide, truth) > Tolerance().drift) == (bias != "none")
    if bias == "none":
        assert drift(wide, truth) < 0.0007
