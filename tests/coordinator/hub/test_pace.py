"""What is measured of a node, and what planning makes of it; the clock is the test's."""

from __future__ import annotations

import pytest

from folkmoot.coordinator.dispatch.host import SentFrame
from folkmoot.coordinator.hub.pace import (
    DEFAULT_SECONDS_PER_BYTE,
    FIRST_SUSPICION_S,
    FORGET_HALF_S,
    SUSPECT_PENALTY_S,
    Pace,
)
from folkmoot.protos.folkmoot.v1 import link_pb2


def frame(work: float = 1e7, service_s: float = 0.0) -> SentFrame:
    return SentFrame(
        link_pb2.CoordinatorMessage(), 1, work, 1.0, lambda frame, ending: None, service_s=service_s
    )


def test_an_unknown_node_is_taken_for_an_ordinary_one() -> None:
    estimate = Pace().estimate(0.0)
    assert estimate.start_s == 0
    assert estimate.seconds_per_byte == DEFAULT_SECONDS_PER_BYTE


def test_speed_is_learnt_from_answers() -> None:
    pace = Pace()
    for _ in range(30):
        pace.served(frame(work=1e7, service_s=0.01), now_s=0.0)
    assert pace.estimate(0.0).seconds_per_byte == pytest.approx(1e-9, rel=0.2)
    for _ in range(60):
        pace.served(frame(work=1e7, service_s=0.001), now_s=0.0)
    assert pace.estimate(0.0).seconds_per_byte == pytest.approx(1e-10, rel=0.25)


def test_about_the_shortest_ping_counts_and_the_smoothed_one_is_shown() -> None:
    pace = Pace()
    for seconds in (0.5, 0.002, 0.004):
        pace.ponged(seconds)
    assert pace.shortest_round_trip_s == pytest.approx(0.002, rel=0.1)
    assert 0.1 < pace.round_trip_s < 0.5
    assert pace.estimate(0.0).start_s == pace.shortest_round_trip_s
    for _ in range(64):
        pace.ponged(0.1)
    assert pace.shortest_round_trip_s == pytest.approx(0.1, rel=0.05), (
        "a way that has become longer is believed"
    )


def test_work_that_is_out_delays_the_start_and_leaves_nothing_behind() -> None:
    pace = Pace()
    frames = [frame(work=0.1 + index) for index in range(5)]
    for each in frames:
        pace.reserve(each)
    assert pace.estimate(0.0).start_s == pytest.approx(10.5 * DEFAULT_SECONDS_PER_BYTE)
    for each in frames:
        pace.release(each)
    assert pace.estimate(0.0).start_s == 0.0


def test_suspicion_grows_with_misses_and_ends_with_time_or_a_good_answer() -> None:
    pace = Pace()
    pace.missed(now_s=100.0)
    assert pace.estimate(100.0).start_s >= SUSPECT_PENALTY_S
    assert pace.estimate(100.0 + FIRST_SUSPICION_S).start_s == 0.0
    pace.missed(now_s=110.0)
    assert pace.estimate(110.0 + 1.5 * FIRST_SUSPICION_S).start_s >= SUSPECT_PENALTY_S
    assert pace.misses == 2
    pace.served(frame(service_s=0.001), now_s=110.0)
    assert pace.misses == 0
    assert pace.estimate(110.0).start_s == 0.0


def test_a_slow_moment_is_forgotten_in_time() -> None:
    pace = Pace()
    pace.served(frame(work=1e7, service_s=0.1), now_s=50.0)
    fresh = pace.estimate(50.0).seconds_per_byte
    assert fresh == pytest.approx(1e-8, rel=0.2)
    assert pace.estimate(50.0 + 3 * FORGET_HALF_S).seconds_per_byte == pytest.approx(fresh / 8)
    assert pace.estimate(1e9).seconds_per_byte > 0
