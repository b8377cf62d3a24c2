"""Proven: with thresholds calibrated at a false-positive rate of 1e-4, honest arithmetics pass and every cheat is
caught at the rate that the design promises; a bias too small for one audit shows over many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from folkmoot.tests.support.honest_samples import all_rows, honest_samples, measured
from folkmoot.tests.support.plain_experts import (
    HONEST,
    Cheat,
    Singles,
    answer,
    cheated,
    heavy_rows,
    random_expert,
    tight,
)
from folkmoot.trust.audit_check import Passed, check_opening
from folkmoot.trust.audit_statements import OpeningKind
from folkmoot.trust.calibration import calibrate
from folkmoot.trust.drift import DriftAccumulator, Sums
from folkmoot.trust.expert_arithmetic import Activation, ExpertForm
from folkmoot.trust.projections import Projections, derive_projections
from folkmoot.trust.residuals import OpenedExpert, Residuals, Stage, StageResiduals
from folkmoot.trust.thresholds import Thresholds

HIDDEN, INTERMEDIATE = 512, 352
FORM = ExpertForm(Activation.SWIGLU)
LAYERS, ROWS = 8, 250
"""Rates are over so many rows of so many experts, each of a layer with projections of its own."""
NODE = HONEST["bfloat16"]
"""What cheats round like: the least exact honest arithmetic hides them best."""


def projections(layer: int, count: int) -> Projections:
    return derive_projections(b"s" * 32, 1, b"m" * 32, layer, HIDDEN, INTERMEDIATE, count)


@cache
def thresholds(count: int) -> Thresholds:
    """From layers other than those that are judged."""
    parts = [honest_samples(FORM, projections(100 + layer, count), 1, 400, seed=layer) for layer in range(8)]
    merged = {
        name: {stage: [part[name][stage][0] for part in parts] for stage in parts[0][name]}
        for name in parts[0]
    }
    return calibrate(merged)


def audits(residuals: Residuals, rows: int) -> Iterator[Residuals]:
    """The residuals of many rows as audits of a few rows each."""
    for start in range(0, ROWS - rows + 1, rows):
        chosen = slice(start, start + rows)
        yield {
            stage: StageResiduals(part.errors[chosen], part.expected[chosen])
            for stage, part in residuals.items()
        }


Answers = tuple[Singles, list[OpenedExpert], list[OpenedExpert]]


def lies(name: str, layer: int) -> Answers:
    """What a node signs, and how it opens it, raw and tight."""
    weights = [random_expert(FORM, HIDDEN, INTERMEDIATE, 7000 + layer)]
    rows, pairs = heavy_rows(ROWS, HIDDEN, 8000 + layer), all_rows(ROWS)
    output, raw = answer(FORM, weights, pairs, rows, NODE)
    exactly = tight(weights, pairs, rows)
    match name:
        case "bias 1 %":
            return output * np.float32(1.01), raw, exactly
        case "zeros":
            return output * 0, raw, exactly
        case "stale":
            return np.roll(output, 1, axis=0), raw, exactly
        case "garbage":
            noise = np.random.default_rng(layer).normal(size=output.shape)
            return (noise * output.std()).astype(np.float32), raw, exactly
        case "all zeros":
            nothing = [replace(one, gate=one.up * 0, up=one.up * 0) for one in raw]
            return output * 0, nothing, nothing
        case "honest opening, int8 output":
            false = [cheated(weights[0], Cheat.INT8_CHANNEL)]
            return answer(FORM, false, pairs, rows, NODE)[0], raw, exactly
        case _:
            false = [cheated(weights[0], Cheat(name))]
            output, raw = answer(FORM, false, pairs, rows, NODE)
            return output, raw, tight(false, pairs, rows)


def caught(name: str, rows: int, count: int, kind: OpeningKind = OpeningKind.RAW) -> float:
    """The share of audits that end in suspicion."""
    passed = []
    for layer in range(LAYERS):
        output, raw, exactly = lies(name, layer)
        weights = [random_expert(FORM, HIDDEN, INTERMEDIATE, 7000 + layer)]
        inputs = heavy_rows(ROWS, HIDDEN, 8000 + layer)
        opened = raw if kind is OpeningKind.RAW else exactly
        found = measured(FORM, projections(layer, count), weights, inputs, output, opened)
        passed += [
            isinstance(check_opening(one, thresholds(count), kind), Passed) for one in audits(found, rows)
        ]
    return 1 - float(np.mean(passed))


GROSS = (
    "zeros",
    "all zeros",
    "garbage",
    "stale",
    Cheat.INT4,
    Cheat.LOW_RANK,
    Cheat.WRONG_EXPERT,
    Cheat.LEFT_OUT,
)


@pytest.mark.parametrize("name", GROSS)
@pytest.mark.parametrize("kind", OpeningKind, ids=lambda kind: kind.name)
def test_gross_lies_are_caught_in_one_row(name: str, kind: OpeningKind) -> None:
    assert caught(name, 1, 8, kind) == 1.0


PROMISED = [
    (1, 8, Cheat.INT8_CHANNEL, 1.0),
    (1, 8, Cheat.INT8_BLOCK, 0.998),
    (1, 8, Cheat.FP8, 1.0),
    (1, 8, "bias 1 %", 0.96),
    (1, 4, Cheat.FP8, 0.999),
    (1, 4, "bias 1 %", 0.76),
    (10, 4, Cheat.INT8_CHANNEL, 1.0),
    (10, 4, Cheat.INT8_BLOCK, 1.0),
    (10, 4, Cheat.FP8, 1.0),
    (10, 4, "bias 1 %", 0.996),
    (10, 8, "honest opening, int8 output", 0.9998),
]


@pytest.mark.parametrize(("rows", "count", "name", "promised"), PROMISED)
def test_cheats_are_caught_as_often_as_promised(rows: int, count: int, name: str, promised: float) -> None:
    assert caught(name, rows, count) >= promised


@pytest.mark.parametrize("cheat", Cheat)
def test_no_cheat_can_open_tightly(cheat: Cheat) -> None:
    assert caught(cheat, 1, 8, OpeningKind.TIGHT) == 1.0


def test_an_honest_opening_over_a_dishonest_output_is_caught_when_it_is_tight_too() -> None:
    assert caught("honest opening, int8 output", 10, 8, OpeningKind.TIGHT) >= 0.9998


@pytest.mark.parametrize("kind", OpeningKind, ids=lambda kind: kind.name)
@pytest.mark.parametrize("rows", [1, 7, 32])
def test_honest_nodes_pass(rows: int, kind: OpeningKind) -> None:
    """At 1e-4 a stage, of about 6,000 audits of single rows one or two may be suspected; five would be a fault."""
    suspected = 0
    for layer in range(LAYERS):
        for samples in honest_samples(FORM, projections(layer, 8), 1, ROWS, seed=5000 + layer).values():
            found = {stage: samples[kind, stage][0] for stage in Stage}
            suspected += sum(
                not isinstance(check_opening(one, thresholds(8), kind), Passed) for one in audits(found, rows)
            )
    assert suspected < 5


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
