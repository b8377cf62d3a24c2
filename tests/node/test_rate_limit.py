"""A rate holds over any stretch of time, for all who share it, and does not punish who used less before."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.node.rate_limit import RateLimit


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.integers(0, 3000), st.floats(0, 5)), min_size=1, max_size=20),
)
def test_no_stretch_of_time_has_more_than_the_rate_allows(rate: int, uses: list[tuple[int, float]]) -> None:
    now = [50.0]
    limit = RateLimit(rate, clock=lambda: now[0])
    passed: list[tuple[float, int]] = []
    for count, pause_s in uses:
        now[0] += pause_s
        passed.append((now[0] + limit.owed_s(count), count))
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            total = sum(count for _, count in passed[first : last + 1])
            stretch_s = passed[last][0] - passed[first][0]
            assert total <= rate * (stretch_s + 1) + passed[first][1] + 1e-6 * rate * (stretch_s + 100)


def test_a_second_may_be_used_at_once_and_idle_time_is_not_saved_up() -> None:
    now = [0.0]
    limit = RateLimit(100, clock=lambda: now[0])
    assert limit.owed_s(100) == 0
    assert limit.owed_s(50) == pytest.approx(0.5)
    now[0] += 1000
    assert limit.owed_s(100) == pytest.approx(0, abs=1e-9)
    assert limit.owed_s(100) == pytest.approx(1)


async def test_those_who_share_it_wait_for_each_other() -> None:
    limit = RateLimit(1000)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await asyncio.gather(*(limit.take(250) for _ in range(6)))
    assert loop.time() - began_s >= 0.49


async def test_no_limit_waits_for_nothing() -> None:
    limit = RateLimit(0)
    assert limit.owed_s(1 << 50) == 0
    await asyncio.wait_for(limit.take(1 << 50), 60)


def test_a_rate_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no bytes can pass"):
        RateLimit(-1)
