"""Audits take no more of a busy node's time than they may, and all that an idle one has, one opening at a time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.coordinator.audit.pace import CREDIT_S, MOST_OF_WORTH, QUIET_S, Pace


@given(share=st.floats(0.01, 0.5), costs=st.lists(st.floats(0.001, 0.2), min_size=1, max_size=50))
def test_audits_of_a_busy_node_take_their_share_and_its_credit(share: float, costs: list[float]) -> None:
    now_s, spent_s = 100.0, 0.0
    pace = Pace(share, now_s)
    for cost_s in costs:
        pace.worked(now_s)
        while (wait_s := pace.wait_s(now_s)) > 0:
            now_s += max(min(wait_s, QUIET_S / 2), 1e-6)
            pace.worked(now_s)
        pace.asked(now_s, worth_s=cost_s / MOST_OF_WORTH)
        now_s += cost_s
        spent_s += cost_s
        pace.ended(now_s)
    elapsed_s = now_s - 100.0
    assert spent_s <= share * elapsed_s + CREDIT_S + max(costs) + 1e-6


def test_an_idle_node_is_asked_one_after_another_and_pays_nothing() -> None:
    pace = Pace(0.02, 0.0)
    now_s = 1.0
    pace.worked(now_s)
    now_s += QUIET_S
    for _ in range(100):
        assert pace.wait_s(now_s) == 0
        pace.asked(now_s, 0.5)
        assert math.isinf(pace.wait_s(now_s))
        now_s += 1.0
        pace.ended(now_s)
    pace.worked(now_s)
    assert pace.wait_s(now_s) == 0, "its credit is still there"


def test_work_that_comes_while_a_node_opens_makes_it_busy() -> None:
    pace = Pace(0.02, 0.0)
    pace.asked(5.0, 1.0)
    pace.worked(5.9)
    pace.ended(6.0)
    assert pace.wait_s(6.0) > 0


def test_a_busy_node_that_falls_quiet_need_not_wait_longer() -> None:
    pace = Pace(0.02, 0.0)
    pace.worked(0.0)
    pace.asked(0.0, 5.0)
    pace.worked(5.0)
    pace.ended(5.0)
    assert pace.wait_s(5.0) == pytest.approx(QUIET_S)
    assert pace.wait_s(5.0 + QUIET_S) == 0


@pytest.mark.parametrize(("took_s", "charged_s"), [(0.0, 0.01), (0.03, 0.03), (100.0, 0.01 * MOST_OF_WORTH)])
def test_neither_haste_nor_delay_changes_much_of_what_an_opening_is_worth(
    took_s: float, charged_s: float
) -> None:
    pace = Pace(0.5, 0.0)
    end_s = 1000.0 + took_s
    pace.worked(1000.0)
    pace.asked(1000.0, 0.01)
    pace.worked(end_s)
    pace.ended(end_s)
    pace.asked(end_s, 1.0)
    pace.ended(end_s)
    assert pace.wait_s(end_s) == pytest.approx(min((1.0 + charged_s - CREDIT_S) / 0.5, QUIET_S))


def test_an_end_that_was_not_waited_for_says_nothing() -> None:
    pace = Pace(0.5, 0.0)
    pace.worked(1.0)
    pace.ended(1.0)
    assert pace.wait_s(1.0) == 0


def test_time_is_paid_for_while_there_is_work_only() -> None:
    pace = Pace(0.5, 0.0)
    pace.took(10.0, 1.0, 11.0)
    assert pace.wait_s(11.0) == 0
    pace.worked(20.0)
    pace.took(CREDIT_S + 0.1, 20.0, 20.0)
    assert pace.wait_s(20.0) == pytest.approx(0.2)
