"""Audits take no more of a busy node's time than they may, and all that an idle one has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.coordinator.audit.pace import CREDIT_S, QUIET_S, Pace


@given(share=st.floats(0.01, 0.5), costs=st.lists(st.floats(0.001, 0.2), min_size=1, max_size=50))
def test_audits_of_a_busy_node_take_their_share_and_its_credit(share: float, costs: list[float]) -> None:
    now_s, spent_s = 100.0, 0.0
    pace = Pace(share, now_s)
    for cost_s in costs:
        pace.worked(now_s)
        while (wait_s := pace.wait_s(now_s)) > 0:
            now_s += max(min(wait_s, QUIET_S / 2), 1e-6)
            pace.worked(now_s)
        began_s = now_s
        now_s += cost_s
        spent_s += cost_s
        pace.audited(began_s, now_s)
    elapsed_s = now_s - 100.0
    assert spent_s <= share * elapsed_s + CREDIT_S + max(costs) + 1e-6


def test_an_idle_node_is_asked_at_once_and_pays_nothing() -> None:
    pace = Pace(0.02, 0.0)
    now_s = 1.0
    pace.worked(now_s)
    now_s += QUIET_S
    for _ in range(100):
        assert pace.wait_s(now_s) == 0
        now_s += 1.0
        pace.audited(now_s - 1.0, now_s)
    pace.worked(now_s)
    assert pace.wait_s(now_s) == 0, "its credit is still there"


def test_a_busy_node_that_falls_quiet_need_not_wait_longer() -> None:
    pace = Pace(0.02, 0.0)
    pace.worked(0.0)
    pace.worked(5.0)
    pace.audited(0.0, 5.0)
    assert pace.wait_s(5.0) == pytest.approx(QUIET_S)
    assert pace.wait_s(5.0 + QUIET_S) == 0
