"""When a node rests, and that what its contributor said comes before the hours."""

from __future__ import annotations

from datetime import datetime

from folkmoot.node.duty import Duty
from folkmoot.node.hours import Hours

NIGHT, DAY = datetime(2026, 3, 1, 23, 0), datetime(2026, 3, 2, 12, 0)
NEXT_NIGHT, NEXT_DAY = datetime(2026, 3, 2, 23, 0), datetime(2026, 3, 3, 12, 0)


def test_outside_of_its_hours_a_node_rests_and_says_until_when() -> None:
    duty = Duty(Hours.parse("22:00-07:00"))
    assert duty.reason_to_rest(NIGHT) == ""
    assert duty.reason_to_rest(DAY) == "outside of its hours (22:00-07:00); back at 22:00"


def test_without_hours_it_always_works() -> None:
    duty = Duty(Hours())
    assert duty.reason_to_rest(NIGHT) == duty.reason_to_rest(DAY) == ""


def test_a_pause_outlasts_the_hours() -> None:
    duty = Duty(Hours.parse("22:00-07:00"))
    duty.pause("a game")
    assert [duty.reason_to_rest(now) for now in (NIGHT, DAY, NEXT_NIGHT)] == ["a game"] * 3
    duty.resume(NEXT_NIGHT)
    assert duty.reason_to_rest(NEXT_NIGHT) == ""
    assert "hours" in duty.reason_to_rest(NEXT_DAY)


def test_one_that_is_resumed_outside_of_its_hours_works_until_they_end_again() -> None:
    duty = Duty(Hours.parse("22:00-07:00"))
    duty.resume(DAY)
    assert duty.reason_to_rest(DAY) == duty.reason_to_rest(NEXT_NIGHT) == ""
    assert "hours" in duty.reason_to_rest(NEXT_DAY)


def test_a_pause_ends_overtime() -> None:
    duty = Duty(Hours.parse("22:00-07:00"))
    duty.resume(DAY)
    duty.pause()
    assert duty.reason_to_rest(DAY) == "the contributor paused it"
