"""Memory is divided fairly, and all of it is used where it can be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.node.share import divided_anew, shares


@pytest.mark.parametrize(
    ("total", "most", "parts"),
    [
        (100, [None], [100]),
        (100, [None, None], [50, 50]),
        (100, [10, None], [10, 90]),
        (100, [None, 80, 20], [40, 40, 20]),
        (100, [10, 20], [10, 20]),
        (100, [], []),
    ],
)
def test_what_one_cannot_use_goes_to_the_others(total: int, most: list[int | None], parts: list[int]) -> None:
    assert shares(total, most) == parts


@given(st.integers(0, 10**12), st.lists(st.none() | st.integers(0, 10**12), max_size=8))
def test_never_more_than_there_is_nor_than_can_be_used(total: int, most: list[int | None]) -> None:
    parts = shares(total, most)
    assert sum(parts) <= total
    assert all(limit is None or part <= limit for part, limit in zip(parts, most, strict=True))
    wanting = [part for part, limit in zip(parts, most, strict=True) if limit is None or part < limit]
    if wanting:
        assert sum(parts) > total - len(parts) - 1
        assert max(parts) - min(wanting) <= len(parts)


@pytest.mark.parametrize(
    ("now", "most", "after"),
    [
        ([100], [None], [100]),
        ([100], [40], [100]),
        ([100, 0], [None, None], [50, 50]),
        ([50, 50], [10, None], [10, 90]),
        ([50, 50], [10, 20], [50, 50]),
        ([50, 50], [48, None], [50, 50]),
        ([50], [None], [100]),
        ([50], [40], [50]),
        ([80, 80], [None, None], [50, 50]),
    ],
)
def test_it_is_divided_anew_only_for_somebody_s_gain(
    now: list[int], most: list[int | None], after: list[int]
) -> None:
    assert divided_anew(100, now, most) == after
