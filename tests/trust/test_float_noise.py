"""Proven: float32 noise covers every order of summing, and machines that flush small numbers, on rows and on whole experts that were made to
cancel; on rows in use of real size it changes no verdict; where a row leaves float32's range, or drowns in its own noise, it is infinite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from folkmoot.tests.support.honest_samples import all_rows
from folkmoot.tests.support.plain_experts import Singles, heavy_rows, random_expert
from folkmoot.trust.expert_arithmetic import (
    Activation,
    Doubles,
    ExpertForm,
    ExpertWeights,
    Floats,
    activate,
    factors,
)
from folkmoot.trust.float_noise import DEAFENING, LARGEST, TIMES, USUAL, float_noise, leeway, summing_noise
from folkmoot.trust.recompute import PROFILE_TOLERANCE, Recomputed, Tolerance, compare, recompute

SWIGLU = ExpertForm(Activation.SWIGLU)
IN_FLOAT32 = ExpertForm(Activation.SWIGLU, significand_bits=24)
HALVES = ExpertForm(Activation.SWIGLU, significand_bits=11)
Sum = Callable[[Singles], Singles]


def one_after_another(terms: Singles) -> Singles:
    return np.cumsum(terms, axis=-1, dtype=np.float32)[..., -1]


def from_the_end(terms: Singles) -> Singles:
    return one_after_another(terms[..., ::-1])


def largest_first(terms: Singles) -> Singles:
    return one_after_another(np.take_along_axis(terms, np.argsort(-np.abs(terms), axis=-1), axis=-1))


def in_pairs(terms: Singles) -> Singles:
    return np.asarray(np.sum(terms, axis=-1, dtype=np.float32), np.float32)


def flushing(terms: Singles) -> Singles:
    """With small numbers flushed to zero before each sum."""
    return one_after_another(np.where(np.abs(terms) < 2.0**-126, np.float32(0), terms))


SUMS: dict[str, Sum] = {
    "one after another": one_after_another,
    "from the end": from_the_end,
    "largest first": largest_first,
    "in pairs": in_pairs,
    "flushing": flushing,
}


def answered(form: ExpertForm, weights: ExpertWeights, rows: Floats, add: Sum) -> Singles:
    """What a machine answers that multiplies and sums in float32, and rounds nothing else."""

    def product(inputs: Floats, matrix: Floats) -> Singles:
        terms = inputs[:, None, :].astype(np.float32) * np.asarray(matrix, np.float32)[None]
        return add(terms)

    gate = None if weights.gate is None else product(rows, weights.gate)
    inner = activate(form, gate, product(rows, weights.up)).astype(np.float32)
    return product(inner, weights.down)


def truth_of(form: ExpertForm, weights: ExpertWeights, rows: Floats) -> Recomputed:
    return recompute(form, lambda _: weights, rows, all_rows(len(rows)))


def missing(matrix: Floats, rows: int) -> Doubles:
    """Directions that a matrix leaves out."""
    wide = np.asarray(matrix, np.float64)
    left_out = np.linalg.svd(wide)[2][len(wide) :]
    return np.asarray(np.random.default_rng(3).normal(size=(rows, len(left_out))) @ left_out)


@pytest.mark.parametrize("add", SUMS)
@pytest.mark.parametrize("power", range(-1, 9))
def test_rows_that_cancel_are_given_what_it_costs_in_any_order(add: str, power: int) -> None:
    weights = random_expert(IN_FLOAT32, 256, 96, 1)
    rows = heavy_rows(6, 256, 2) + 10.0**power * missing(weights.up, 6)
    rows = rows.astype(np.float32)
    found = compare(
        answered(IN_FLOAT32, weights, rows, SUMS[add]), truth_of(IN_FLOAT32, weights, rows), Tolerance()
    )
    assert found.wrong == ()
    assert (found.errors[np.isfinite(found.allowed)] < 0.3 * found.allowed[np.isfinite(found.allowed)]).all()


@pytest.mark.parametrize("add", SUMS)
@pytest.mark.parametrize("power", range(0, -9, -1))
def test_experts_whose_neurons_cancel_in_down_are_given_it_too(add: str, power: int) -> None:
    """Neurons in pairs, alike but for the sign of what they answer: an expert that somebody published for this."""
    half = random_expert(IN_FLOAT32, 128, 64, 1)
    assert half.gate is not None
    rest = np.float32(1 + 10.0**power) * np.asarray(half.down, np.float32)
    weights = replace(
        half,
        gate=np.concatenate([half.gate, half.gate]),
        up=np.concatenate([half.up, half.up]),
        down=np.concatenate([np.asarray(half.down, np.float32), -rest], axis=1),
    )
    rows = heavy_rows(6, 128, 2)
    found = compare(
        answered(IN_FLOAT32, weights, rows, SUMS[add]), truth_of(IN_FLOAT32, weights, rows), Tolerance()
    )
    assert found.wrong == ()


@pytest.mark.parametrize("add", SUMS)
@pytest.mark.parametrize("power", range(0, 9))
def test_sums_that_lose_every_term_are_given_all_of_them(add: str, power: int) -> None:
    """All weights alike, a large input first and its opposite last: one after another, each term between is rounded the same way."""
    hidden, generator = 512, np.random.default_rng(1)
    weights = ExpertWeights(
        np.full((8, hidden), 0.02, np.float32),
        np.full((8, hidden), 0.02, np.float32),
        generator.normal(0, 0.02, (hidden, 8)).astype(np.float32),
    )
    rows = np.full((4, hidden), 0.49 * 2.0**-23, np.float32) * np.arange(1, 5, dtype=np.float32)[:, None]
    rows[:, 1:-1] *= np.float32(10.0**power)
    rows[:, 0], rows[:, -1] = 1.0, -1.0
    rows *= np.float32(1000)
    found = compare(
        answered(IN_FLOAT32, weights, rows, SUMS[add]), truth_of(IN_FLOAT32, weights, rows), Tolerance()
    )
    assert found.wrong == ()


@pytest.mark.parametrize(
    ("hidden", "intermediate", "activation"),
    [
        (2048, 1408, Activation.SWIGLU),
        (2048, 1408, Activation.GEGLU_TANH),
        (2880, 2880, Activation.CLAMPED_SWIGLU),
        (7168, 2048, Activation.SWIGLU),
    ],
)
def test_on_rows_in_use_of_real_size_no_verdict_changes(
    hidden: int, intermediate: int, activation: Activation
) -> None:
    form = ExpertForm(activation)
    truth = truth_of(form, random_expert(form, hidden, intermediate, 1), heavy_rows(8, hidden, 2))
    alone = compare(truth.output, replace(truth, leeway=np.zeros(8)), Tolerance()).allowed
    allowed = compare(truth.output, truth, Tolerance()).allowed
    assert (alone == PROFILE_TOLERANCE).all()
    assert (allowed == PROFILE_TOLERANCE).all()
    assert (truth.leeway < 0.5 * PROFILE_TOLERANCE).all()


def test_rows_of_one_expert_add_to_those_of_another() -> None:
    weights = random_expert(SWIGLU, 64, 32, 1)
    rows = heavy_rows(4, 64, 2)
    one = recompute(SWIGLU, lambda _: weights, rows, all_rows(4))
    two = recompute(SWIGLU, lambda _: weights, rows, all_rows(4, (1.0, -1.0)))
    assert (two.leeway * two.sizes > 1.4 * one.leeway * one.sizes).all()


def test_leeway_grows_faster_than_noise_until_nothing_can_be_said() -> None:
    shares = np.array([0.0, USUAL / 2, USUAL, 2 * USUAL, DEAFENING, 1.01 * DEAFENING, np.inf])
    found = leeway(shares * 3.0, np.full(7, 3.0))
    np.testing.assert_allclose(found[:4], [0, TIMES * USUAL / 2, TIMES * USUAL, 4 * TIMES * USUAL])
    assert found[4] == pytest.approx(TIMES * DEAFENING * DEAFENING / USUAL)
    assert np.isinf(found[5:]).all()


def test_a_row_of_zeros_makes_no_noise_and_any_size_of_nothing_too_much() -> None:
    assert leeway(np.zeros(2), np.array([0.0, 1.0])).tolist() == [0, 0]
    assert leeway(np.array([1e-300]), np.zeros(1)).tolist() == [np.inf]
    weights = random_expert(SWIGLU, 64, 32, 1)
    truth = truth_of(SWIGLU, weights, np.zeros((1, 64), np.float32))
    assert compare(np.ones((1, 64)), truth, Tolerance()).wrong == (0,)


@pytest.mark.parametrize(("form", "most"), [(SWIGLU, LARGEST), (IN_FLOAT32, LARGEST), (HALVES, 6e4)])
def test_beyond_the_range_nothing_can_be_said(form: ExpertForm, most: float) -> None:
    eye = np.eye(32, dtype=np.float32)
    weights = ExpertWeights(eye, eye, eye)
    for size, known in ((0.5 * most**0.5, True), (1.1 * most**0.5, False)):
        truth = truth_of(form, weights, np.full((1, 32), size))
        assert np.isfinite(truth.leeway).all() == known, size
        found = compare(np.full((1, 32), np.inf), truth, Tolerance())
        assert (found.wrong == (0,)) == known
        assert found.unknown == (0 if known else 1)


def test_float16_may_round_small_numbers_to_its_coarse_ones() -> None:
    """Rows so small that what stands between the products is among float16's smallest numbers: rounded there, as the profile lets it be."""
    weights = random_expert(HALVES, 128, 96, 1)
    for size in (1.0, 0.1, 0.03, 0.01, 0.003, 0.001, 1e-4):
        rows = (heavy_rows(6, 128, 2) * size).astype(np.float16).astype(np.float32)

        def half(values: Floats) -> Singles:
            return values.astype(np.float16).astype(np.float32)

        assert weights.gate is not None
        gate, up = half(rows @ weights.gate.T), half(rows @ weights.up.T)
        signed = half(half(activate(HALVES, gate, up)) @ weights.down.T)
        assert compare(signed, truth_of(HALVES, weights, rows), Tolerance()).wrong == (), size


def test_gates_that_overflow_or_vanish_accuse_nobody() -> None:
    assert np.isinf(summing_noise(4, np.array([[1.0, 1e31, 1.0]])))
    assert summing_noise(4, np.zeros((1, 3))).tolist() == [0]
    weights = random_expert(SWIGLU, 64, 32, 1)
    rows = heavy_rows(2, 64, 2)
    for gate in (1e-40, 1e-44, 3e38):
        pairs = all_rows(2, (gate,))
        truth = recompute(SWIGLU, lambda _: weights, rows, pairs)
        with np.errstate(over="ignore"):
            signed = (recompute(SWIGLU, lambda _: weights, rows, all_rows(2)).output * 1.1).astype(
                np.float32
            ) * pairs[0].gates[:, None]
        for answer in (signed, np.zeros_like(signed)):
            assert compare(answer, truth, Tolerance()).wrong == (), gate


@pytest.mark.parametrize("activation", [one for one in Activation if one is not Activation.RELU_SQUARED])
def test_an_activation_is_its_factors(activation: Activation) -> None:
    form, numbers = ExpertForm(activation), np.random.default_rng(1).normal(size=(2, 3, 40)) * 5
    first, second = factors(form, numbers[0], numbers[1])
    np.testing.assert_array_equal(first * second, activate(form, numbers[0], numbers[1]))
    steps = np.linspace(-12, 12, 20_001)[None]
    slopes = np.diff(factors(form, steps, steps)[0]) / np.diff(steps)
    assert np.abs(slopes).max() < 1.13


def test_noise_is_that_of_each_row() -> None:
    weights = random_expert(SWIGLU, 64, 32, 1)
    rows = heavy_rows(5, 64, 2)
    truth = truth_of(SWIGLU, weights, rows)
    gate, up = rows @ np.asarray(weights.gate, np.float64).T, rows @ np.asarray(weights.up, np.float64).T
    all_at_once = float_noise(SWIGLU, weights, rows, gate, up, truth.output)
    each = [
        float_noise(SWIGLU, weights, rows[i : i + 1], gate[i : i + 1], up[i : i + 1], truth.output[i : i + 1])
        for i in range(5)
    ]
    np.testing.assert_allclose(all_at_once, np.concatenate(each), rtol=1e-12)
