"""What the coordinator has measured of one node: round trip, speed, work that is out, deadlines missed.

Guarantees: nothing here comes from what a node says of itself; all methods may be called from any thread. The clock is an
argument, so that decisions can be tested without waiting.
"""

from __future__ import annotations

import threading
from typing import Protocol

from ..dispatch.choice import HostEstimate

DEFAULT_SECONDS_PER_BYTE = 1e-10
"""Of a node that has not been measured yet: 10 GB/s."""
SHORTEST_SERVICE_S = 20e-6
WEIGHT_OF_NEW = 0.2
WEIGHT_OF_LONGER = 0.05
"""Of a ping that took longer than the shortest: most were held up by work, and a way that has become longer shows in time."""
FORGET_HALF_S = 10.0
"""A node that is not asked is taken for twice as fast after so long: or one slow moment would keep it idle for ever."""
MOST_HALVINGS = 8.0
SUSPECT_PENALTY_S = 1000.0
FIRST_SUSPICION_S = 5.0
LONGEST_SUSPICION_S = 60.0


class Charge(Protocol):
    """A piece of work that is given to somebody, such as a frame.

    Attributes:
        work: What computing it costs, in bytes of weights read.
        reserved_s: What is counted as work to come while it is out; `Pace` writes it.
        service_s: How long it took, once that is known.
    """

    work: float
    reserved_s: float
    service_s: float


class Pace:
    """Measurements of one link."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._round_trip_s = 0.0
        self._shortest_s = 0.0
        self._seconds_per_byte = 0.0
        self._served_at_s = 0.0
        self._reserved_s = 0.0
        self._out = 0
        self._misses = 0
        self._suspect_until_s = 0.0

    @property
    def round_trip_s(self) -> float:
        """Smoothed round trip of pings; 0 before the first."""
        return self._round_trip_s

    @property
    def shortest_round_trip_s(self) -> float:
        """About the shortest of the pings: what the way itself takes, when nothing is in the way; 0 before the first."""
        return self._shortest_s

    @property
    def seconds_per_byte(self) -> float:
        """Smoothed time for each byte of expert weights; 0 before the first answer."""
        return self._seconds_per_byte

    @property
    def misses(self) -> int:
        """Deadlines missed since the last good answer."""
        return self._misses

    def estimate(self, now_s: float) -> HostEstimate:
        """What planning should believe."""
        start_s = self._shortest_s + self._reserved_s
        if now_s < self._suspect_until_s:
            start_s += SUSPECT_PENALTY_S
        halvings = min((now_s - self._served_at_s) / FORGET_HALF_S, MOST_HALVINGS)
        speed = self._seconds_per_byte * 0.5**halvings
        return HostEstimate(start_s, speed or DEFAULT_SECONDS_PER_BYTE)

    def reserve(self, frame: Charge) -> None:
        """A frame is planned for this node."""
        with self._lock:
            frame.reserved_s = frame.work * (self._seconds_per_byte or DEFAULT_SECONDS_PER_BYTE)
            self._reserved_s += frame.reserved_s
            self._out += 1

    def release(self, frame: Charge) -> None:
        """The frame has ended, in whatever way."""
        with self._lock:
            self._out -= 1
            self._reserved_s = max(self._reserved_s - frame.reserved_s, 0.0) if self._out else 0.0

    def ponged(self, round_trip_s: float) -> None:
        """A ping came back."""
        with self._lock:
            self._round_trip_s = _smooth(self._round_trip_s, round_trip_s)
            longer_s = round_trip_s - self._shortest_s
            first = self._shortest_s == 0
            self._shortest_s += longer_s * (WEIGHT_OF_LONGER if longer_s > 0 and not first else 1.0)

    def served(self, frame: Charge, now_s: float) -> None:
        """A frame was answered, and the answer found right."""
        with self._lock:
            self._served_at_s = now_s
            self._misses = 0
            self._suspect_until_s = 0.0
            sample = max(frame.service_s, SHORTEST_SERVICE_S) / frame.work
            self._seconds_per_byte = _smooth(self._seconds_per_byte, sample)

    def seeded(self, seconds_per_byte: float) -> None:
        """What several frames showed together, with nothing else in their way: this counts, and not the last one of them most."""
        with self._lock:
            self._seconds_per_byte = seconds_per_byte

    def missed(self, now_s: float) -> None:
        """A frame was not answered in time: others are asked first for a while, longer each time."""
        with self._lock:
            suspicion_s = min(FIRST_SUSPICION_S * 2**self._misses, LONGEST_SUSPICION_S)
            self._misses += 1
            self._suspect_until_s = now_s + suspicion_s


def _smooth(before: float, sample: float) -> float:
    return sample if before == 0 else before + WEIGHT_OF_NEW * (sample - before)
