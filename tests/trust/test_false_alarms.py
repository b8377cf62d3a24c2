"""How many false alarms are chance: the binomial distribution's tail, against its definition in whole numbers; and what is far."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.trust.audit_check import Suspicion, check_opening
from folkmoot.trust.audit_statements import OpeningKind
from folkmoot.trust.false_alarms import NO_CHANCE, as_many_by_chance, is_far
from folkmoot.trust.residuals import Stage, StageResiduals
from folkmoot.trust.thresholds import ROW_COUNTS, StageLimits, Thresholds


def tail(count: int, of: int, rate: Fraction) -> Fraction:
    """By definition."""
    terms = (math.comb(of, one) * rate**one * (1 - rate) ** (of - one) for one in range(count, of + 1))
    return sum(terms, Fraction(0))


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 9_999))
def test_it_is_the_tail_of_the_binomial_distribution(count: int, more: int, rate: int) -> None:
    of = max(count + more, 1)
    found, exact = (
        as_many_by_chance(count, of, rate / 10_000),
        float(tail(count, of, Fraction(rate, 10_000))),
    )
    assert found == (1.0 if count <= of * rate / 10_000 else pytest.approx(exact, rel=1e-9))


def test_very_many_are_no_trouble() -> None:
    assert as_many_by_chance(2_100, 10**7, 2e-4) == pytest.approx(0.0132, abs=0.001)
    assert as_many_by_chance(4_000, 10**7, 2e-4) < 1e-200 or as_many_by_chance(4_000, 10**7, 2e-4) == 0
    assert as_many_by_chance(0, 10**7, 2e-4) == 1


def test_honest_nodes_are_within_it() -> None:
    """Of 2,000 honest nodes with 20,000 openings each, looked at with every false alarm, none is taken for something else."""
    draws = np.random.default_rng(11)
    for _ in range(2_000):
        at = np.flatnonzero(draws.random(20_000) < 2e-4)
        for number, opening in enumerate(at, 1):
            assert as_many_by_chance(number, int(opening) + 1, 2e-4) >= NO_CHANCE


def thresholds() -> Thresholds:
    def limits(size: float) -> StageLimits:
        return StageLimits(4, (size,) * len(ROW_COUNTS), (size,) * len(ROW_COUNTS), 1.0)

    sizes = {OpeningKind.RAW: 0.01, OpeningKind.TIGHT: 1e-5}
    return Thresholds(
        1e-4, {"one": 1}, {(kind, stage): limits(size) for kind, size in sizes.items() for stage in Stage}
    )


@pytest.mark.parametrize("kind", list(OpeningKind))
@pytest.mark.parametrize(("size", "far"), [(0.011, False), (0.029, False), (0.031, True), (math.inf, True)])
@pytest.mark.parametrize("rows", [1, 5])
def test_what_a_rounded_opening_could_nearly_be_is_not_far(
    kind: OpeningKind, size: float, far: bool, rows: int
) -> None:
    errors = np.zeros((rows, 4))
    errors[0] = size
    left = {
        Stage.OPENED: StageResiduals(errors, np.ones((rows, 4))),
        Stage.OUTPUT: StageResiduals(np.zeros((rows, 4)), np.ones((rows, 4))),
    }
    found = check_opening(left, thresholds(), kind)
    assert isinstance(found, Suspicion)
    assert is_far(found, left, thresholds()) == far


def test_another_machines_sums_are_not_far() -> None:
    limits = StageLimits(4, (1e-5,) * len(ROW_COUNTS), (1e-5,) * len(ROW_COUNTS), 1.0)
    exact = Thresholds(1e-4, {"one": 1}, {(kind, stage): limits for kind in OpeningKind for stage in Stage})
    for size, far in ((9e-4, False), (1.1e-3, True)):
        left = {stage: StageResiduals(np.full((1, 4), size), np.ones((1, 4))) for stage in Stage}
        found = check_opening(left, exact, OpeningKind.RAW)
        assert isinstance(found, Suspicion)
        assert is_far(found, left, exact) == far
