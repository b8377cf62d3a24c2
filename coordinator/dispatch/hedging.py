"""When a frame has waited long enough to be sent to another replica as well: decided from the coordinator's own measurements.

Guarantees: how long is usual is the high quantile of one host's recent times for frames of about the same work, never below
`least_s` nor above half the frame's deadline; second frames are at no time more than their share of the last few thousand
frames, nor of these frames' work, so that a network which is slow everywhere gets no slower by it. With a share of 0 there are
none. All methods may be called from any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final
from weakref import WeakKeyDictionary

from .choice import HostEstimate
from .host import Host
from .plan import Plan

WINDOW: Final = 64
"""Times that are remembered of one host and size of frame."""
FEWEST: Final = 16
"""Times without which nothing is known to be usual."""
REFRESHED_AFTER: Final = 8
FORGOTTEN_AFTER: Final = 2048
"""Frames after which all that was counted counts half."""
MOST_SECONDS: Final = 4
"""Frames that may stand in for one: its experts may have their replicas on different nodes."""


@dataclass(slots=True)
class _Times:
    recent: deque[float]
    fresh: int = 0
    usual_s: float = inf


class UsualTimes:
    """How long one host usually takes, from sending a frame to having its answer, waiting and travelling included."""

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._lock = threading.Lock()
        self._by_size: dict[int, _Times] = {}

    def took(self, work: float, elapsed_s: float) -> None:
        """A frame was answered."""
        size = int(work).bit_length()
        with self._lock:
            times = self._by_size.get(size)
            if times is None:
                times = self._by_size[size] = _Times(deque(maxlen=WINDOW))
            times.recent.append(elapsed_s)
            times.fresh += 1
            if times.fresh >= REFRESHED_AFTER and len(times.recent) >= FEWEST:
                times.fresh = 0
                ordered = sorted(times.recent)
                times.usual_s = ordered[min(int(self._quantile * len(ordered)), len(ordered) - 1)]

    def usual_s(self, work: float) -> float:
        """What it seldom exceeds for frames of about this work; infinite while too little is known."""
        times = self._by_size.get(int(work).bit_length())
        return inf if times is None else times.usual_s


class Hedging:
    """Of one coordinator's dispatch."""

    def __init__(self, share: float, quantile: float, least_s: float) -> None:
        """Args: share is the most of all frames that may be second ones; see the module for the others."""
        self._share = share
        self._quantile = quantile
        self._least_s = least_s
        self._hosts: WeakKeyDictionary[Host, UsualTimes] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._frames = self._work = self._seconds = self._second_work = 0.0

    @property
    def enabled(self) -> bool:
        """Whether there are second frames at all."""
        return self._share > 0

    def patience_s(self, host: Host, work: float, deadline_s: float) -> float:
        """How long a frame is waited for before another replica is asked."""
        usual_s = self._of(host).usual_s(work)
        return min(max(usual_s, self._least_s), deadline_s / 2)

    def took(self, host: Host, work: float, elapsed_s: float) -> None:
        """A frame was answered, and the answer found right."""
        self._of(host).took(work, elapsed_s)

    def sent(self, frames: int, work: float) -> None:
        """Frames were sent that are no second ones."""
        with self._lock:
            self._frames += frames
            self._work += work
            if self._frames > FORGOTTEN_AFTER:
                self._frames, self._work = self._frames / 2, self._work / 2
                self._seconds, self._second_work = self._seconds / 2, self._second_work / 2

    def _afford(self, frames: int, work: float) -> bool:
        with self._lock:
            seconds, second_work = self._seconds + frames, self._second_work + work
            if seconds > self._share * self._frames or second_work > self._share * self._work:
                return False
            self._seconds, self._second_work = seconds, second_work
            return True

    def claim(self, planned: Plan, estimates: Sequence[HostEstimate], waited_s: float) -> bool:
        """Takes these second frames out of the share; whether they may be sent: others have all of the first one's experts, each can be
        expected to be done sooner than the first has been waited for, and there is a share left."""
        seconds = planned.frames
        if planned.orphans is not None or not 0 < len(seconds) <= MOST_SECONDS:
            return False
        for second in seconds:
            estimate = estimates[second.host]
            if estimate.start_s + second.work * estimate.seconds_per_byte > waited_s:
                return False
        return self._afford(len(seconds), sum(second.work for second in seconds))

    def _of(self, host: Host) -> UsualTimes:
        with self._lock:
            times = self._hosts.get(host)
            if times is None:
                times = self._hosts[host] = UsualTimes(self._quantile)
            return times
