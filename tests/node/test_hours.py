"""Hours of the day: how they are read, and which minutes lie in them, over midnight too."""

from __future__ import annotations

from datetime import datetime, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.node.hours import Hours, HoursError, Stretch

DAY = datetime(2026, 3, 1)


def at(clock: str) -> datetime:
    hour, minute = clock.split(":")
    return DAY.replace(hour=int(hour), minute=int(minute))


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ("22:00-07:00", ("22:00", "23:59", "00:00", "06:59"), ("07:00", "12:00", "21:59")),
        ("09:00-17:30", ("09:00", "17:29"), ("08:59", "17:30", "00:00")),
        ("20:00-24:00", ("20:00", "23:59"), ("00:00", "19:59")),
        ("6:00-08:00, 12:00-13:00", ("06:00", "12:30"), ("08:00", "11:59", "13:00")),
        ("00:00-00:00", ("00:00", "12:00", "23:59"), ()),
        ("", ("00:00", "12:00", "23:59"), ()),
    ],
)
def test_what_lies_in_hours(hours: str, inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
    parsed = Hours.parse(hours)
    assert all(parsed.hold(at(clock)) for clock in inside)
    assert not any(parsed.hold(at(clock)) for clock in outside)


@pytest.mark.parametrize(
    "text", ["22-7", "25:00-07:00", "22:60-07:00", "22:00", "24:00-07:00", "22:00-07:00-09:00", "nights"]
)
def test_what_nobody_can_read_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(HoursError, match="22:00-07:00, in this machine's local time"):
        Hours.parse(text)


def test_the_next_beginning_is_the_soonest_by_the_clock() -> None:
    hours = Hours.parse(["22:00-07:00", "12:00-13:00"])
    assert hours.next_begin(at("08:00")) == time(12)
    assert hours.next_begin(at("13:00")) == time(22)
    assert hours.next_begin(at("22:00")) == time(12)
    assert Hours().next_begin(at("08:00")) is None


@given(st.integers(0, 1439), st.integers(0, 1439))
def test_a_stretch_and_its_rest_share_the_day(begins: int, ends: int) -> None:
    stretch, rest = Stretch(begins, ends), Stretch(ends, begins)
    if begins != ends:
        assert all(stretch.holds(minute) != rest.holds(minute) for minute in range(1440))
    assert Stretch.parse(str(stretch)) == stretch
