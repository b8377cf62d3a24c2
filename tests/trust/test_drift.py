"""Proven: a bias too small for one audit shows over many, of scale and of direction, and honest rounding shows none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from folkmoot.tests.support.detection import FORM, NODE
from folkmoot.tests.support.honest_samples import all_rows, measured
from folkmoot.tests.support.plain_experts import answer, heavy_rows, random_expert
from folkmoot.trust.drift import DriftAccumulator, Sums
from folkmoot.trust.projections import Projections, derive_projections
from folkmoot.trust.residuals import Stage, StageResiduals

HIDDEN, INTERMEDIATE = 512, 352


def projections(layer: int, count: int) -> Projections:
    return derive_projections(b"s" * 32, 1, b"m" * 32, layer, HIDDEN, INTERMEDIATE, count)


def drifted(name: str, rows: int = 100) -> dict[Stage, object]:
    """What a drift accumulator says of a node's audits of one layer, each of one row."""
    weights = [random_expert(FORM, HIDDEN, INTERMEDIATE, 42)]
    inputs, pairs = heavy_rows(rows, HIDDEN, 43), all_rows(rows)
    output, raw = answer(FORM, weights, pairs, inputs, NODE)
    lengths = np.linalg.norm(output, axis=1, keepdims=True)
    direction = np.random.default_rng(44).normal(size=HIDDEN)
    match name:
        case "scale":
            output = (output * 1.003).astype(np.float32)
        case "direction":
            output = (output + 0.003 * lengths * direction / np.linalg.norm(direction)).astype(np.float32)
    accumulator = DriftAccumulator()
    for one in range(rows):
        part = [
            replace(
                opened, pairs=all_rows(1)[0], gate=opened.gate[one : one + 1], up=opened.up[one : one + 1]
            )
            for opened in raw
            if opened.gate is not None
        ]
        chosen = slice(one, one + 1)
        found = measured(FORM, projections(0, 8), weights, inputs[chosen], output[chosen], part)
        accumulator = accumulator.add(found)
    return dict(accumulator.biased(1e-4))


@pytest.mark.parametrize("name", ["scale", "direction"])
def test_a_bias_of_three_per_mille_shows_over_a_hundred_audits(name: str) -> None:
    assert set(drifted(name)) == {Stage.OUTPUT}


def test_honest_rounding_does_not_drift() -> None:
    assert not drifted("honest")


def test_the_direction_measured_is_what_honest_rounding_does_not_explain() -> None:
    squares = []
    for seed in range(200):
        errors = 0.004 * np.random.default_rng(seed).normal(size=(100, 8)) + 0.003
        sums = Sums(0, np.zeros(8), 0.0, 0.0, 0.0).add(StageResiduals(errors, np.zeros_like(errors)))
        squares.append(sums.bias(1e-4).direction ** 2)
    explained = (0.004**2 + 0.003**2) / 100
    assert abs(np.mean(squares) - (0.003**2 - 0.003**2 / 100)) < explained / 4


def test_few_audits_say_nothing_of_drift() -> None:
    assert not drifted("scale", rows=20)
