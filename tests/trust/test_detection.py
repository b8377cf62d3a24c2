"""Proven: with thresholds calibrated at a false-positive rate of 1e-4 a stage, honest arithmetics pass and every cheat is
caught at least as often as the design's table of detection promises, cell by cell, by raw and by tight openings."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import pytest

from folkmoot.tests.support.detection import FORM, HONEST_NAMES, Detection
from folkmoot.tests.support.honest_samples import all_rows, measured
from folkmoot.tests.support.plain_experts import HONEST, Cheat, answer, heavy_rows, random_expert, tight
from folkmoot.trust.audit_check import Passed, check_opening
from folkmoot.trust.audit_statements import OpeningKind
from folkmoot.trust.projections import derive_projections
from folkmoot.trust.residuals import OpenedExpert

BIAS: Final = "bias 1 %"
FALSE_OUTPUT: Final = "honest opening, int8 output"
KINDS = pytest.mark.parametrize("kind", OpeningKind, ids=lambda kind: kind.name)
ALWAYS: Final = 0.9995
"""What the table calls 1 with one projection: once in ten thousand, the projection of a gross error is as small as that of an honest one."""
TABLE: Final = {
    (1, 1): {
        Cheat.INT8_CHANNEL: 0.73,
        Cheat.INT8_BLOCK: 0.48,
        Cheat.FP8: 0.99,
        Cheat.INT4: ALWAYS,
        BIAS: 0.35,
    },
    (1, 4): {Cheat.INT8_CHANNEL: 0.998, Cheat.INT8_BLOCK: 0.96, Cheat.FP8: 1, Cheat.INT4: 1, BIAS: 0.76},
    (1, 8): {Cheat.INT8_CHANNEL: 1, Cheat.INT8_BLOCK: 0.998, Cheat.FP8: 1, Cheat.INT4: 1, BIAS: 0.96},
    (10, 4): {Cheat.INT8_CHANNEL: 1, Cheat.INT8_BLOCK: 1, Cheat.FP8: 1, Cheat.INT4: 1, BIAS: 0.996},
    (10, 8): {FALSE_OUTPUT: 0.9998},
}
"""What is promised, by rows and projections, then by cheat."""
GROSS = ("zeros", "all zeros", "garbage", "stale", Cheat.LOW_RANK, Cheat.WRONG_EXPERT, Cheat.LEFT_OUT)


@cache
def small() -> Detection:
    return Detection(hidden=512, intermediate=352, layers=2, rows=60)


@cache
def promised_size() -> Detection:
    """Experts of the shape that the table was measured with."""
    return Detection(hidden=2048, intermediate=1408, layers=4, rows=400)


def share(detection: Detection, name: str, rows: int, count: int, kind: OpeningKind) -> float:
    suspected, audits = detection.caught(name, rows, count, kind)
    return suspected / audits


@KINDS
@pytest.mark.parametrize(("rows", "count"), TABLE)
def test_cheats_are_caught_as_often_as_promised(rows: int, count: int, kind: OpeningKind) -> None:
    found = {name: share(small(), name, rows, count, kind) for name in TABLE[rows, count]}
    assert all(found[name] >= promised for name, promised in TABLE[rows, count].items()), found


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize(("rows", "count"), TABLE)
def test_experts_of_the_tables_own_size_are_caught_as_often(rows: int, count: int, kind: OpeningKind) -> None:
    found = {name: share(promised_size(), name, rows, count, kind) for name in TABLE[rows, count]}
    print(rows, count, kind.name, {str(name): round(rate, 5) for name, rate in found.items()})
    assert all(found[name] >= promised for name, promised in TABLE[rows, count].items()), found


@pytest.mark.slow
def test_no_node_without_the_canonical_weights_opens_tightly() -> None:
    """48,000 rows of each cheat, by the projections that are shipped."""
    detection = Detection(hidden=512, intermediate=352, layers=8, rows=750)
    for cheat in Cheat:
        suspected, audits = detection.caught(cheat, 1, 8, OpeningKind.TIGHT)
        assert suspected == audits >= 48_000, cheat


@pytest.mark.parametrize("cheat", Cheat)
def test_no_cheat_can_open_tightly(cheat: Cheat) -> None:
    assert share(small(), cheat, 1, 8, OpeningKind.TIGHT) == 1.0


@pytest.mark.parametrize("name", GROSS)
@KINDS
def test_gross_lies_are_caught_in_one_row(name: str, kind: OpeningKind) -> None:
    assert share(small(), name, 1, 8, kind) == 1.0


@KINDS
@pytest.mark.parametrize("rows", [1, 7, 30])
def test_honest_nodes_pass(rows: int, kind: OpeningKind) -> None:
    """At 1e-4 a stage, of 2,880 audits of single rows, four would be a fault."""
    assert sum(small().caught(name, rows, 8, kind)[0] for name in HONEST_NAMES) < 4


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize("count", [1, 4, 8])
@pytest.mark.parametrize("rows", [1, 10])
def test_honest_nodes_are_suspected_at_the_configured_rate(rows: int, count: int, kind: OpeningKind) -> None:
    """Two stages, the worst of three honest arithmetics; what chance alone exceeds once in a thousand is allowed."""
    detection = Detection(hidden=512, intermediate=352, layers=8, rows=500)
    for name in HONEST_NAMES:
        suspected, audits = detection.caught(name, rows, count, kind)
        expected = 2e-4 * audits
        assert suspected <= expected + 3.3 * expected**0.5 + 1, (name, suspected, audits)


@KINDS
def test_a_row_of_several_experts_may_be_computed_by_several_paths(kind: OpeningKind) -> None:
    """Each expert rounds in its own way: few rows of one natively, many of another by torch."""
    rows, gates = 60, (0.6, 0.3, 0.8)
    weights = [random_expert(FORM, 512, 352, 40 + number) for number in range(3)]
    pairs, inputs = all_rows(rows, gates), heavy_rows(rows, 512, 44)
    output = np.zeros_like(inputs)
    opened: list[OpenedExpert] = []
    for number, arithmetic in enumerate(HONEST.values()):
        part, raw = answer(FORM, weights[number : number + 1], pairs[number : number + 1], inputs, arithmetic)
        exactly = tight(weights[number : number + 1], pairs[number : number + 1], inputs)
        output, opened = output + part, opened + (raw if kind is OpeningKind.RAW else exactly)
    suspected = 0
    for first in range(8):
        made = derive_projections(bytes(32), first, b"m" * 32, 0, 512, 352, 8)
        found = measured(FORM, made, weights, inputs, output, opened)
        for row in range(rows):
            one = {
                stage: type(part)(part.errors[row::rows], part.expected[row::rows])
                for stage, part in found.items()
            }
            suspected += not isinstance(check_opening(one, small().thresholds(8), kind), Passed)
    assert suspected < 3
