"""What placement is told of traffic, speeds and round trips: what was true when it was last looked at.

Guarantees: between two looks nothing changes but that a node is seen for the first time, so that no measurement moves an expert by itself; a speed that differs from what
is usual for the node's memory by less than `ALIKE` counts as usual, and one that was taken in is replaced only when it has changed by
more than that. No method waits but for another's arithmetic; all may be called from any thread, `look` by one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from ...ids import NodeId
from ..placement.snapshot import Traffic
from ..placement.usage import Usage

ALIKE = 1.5


@dataclass(frozen=True, slots=True)
class Measured:
    """What has been measured of one node by now; zeros for what has not."""

    memory_bytes: int
    seconds_per_byte: float
    round_trip_s: float


class Outlook:
    """What was last taken in.

    Attributes:
        traffic: How experts were used; None while that is not known.
    """

    def __init__(self, usage: Usage | None) -> None:
        """`usage` counts how experts are used; None where that does not matter."""
        self.traffic: Traffic | None = None
        self._usage = usage
        self._lock = threading.Lock()
        self._speeds: dict[NodeId, float] = {}
        self._unusual: dict[NodeId, float] = {}
        self._memories: dict[NodeId, int] = {}
        self._round_trips_s: dict[NodeId, float] = {}

    def fold(self) -> None:
        """Takes in what rows were sent since the last time; changes nothing that placement sees."""
        if self._usage is not None:
            self._usage.fold()

    def first_seen(self, node: NodeId, memory_bytes: int, bytes_per_second: float) -> None:
        """Takes in the first measurement of a node; of one that is known already nothing changes."""
        with self._lock:
            if node not in self._speeds and bytes_per_second > 0:
                self._speeds[node], self._memories[node] = bytes_per_second, max(memory_bytes, 1)
                self._compare()

    def look(self, nodes: Mapping[NodeId, Measured]) -> None:
        """From now on placement sees what is true now."""
        if self._usage is not None:
            self.traffic = self._usage.traffic() or self.traffic
        with self._lock:
            self._take_in(nodes)

    def _take_in(self, nodes: Mapping[NodeId, Measured]) -> None:
        for node, measured in nodes.items():
            if measured.seconds_per_byte > 0:
                speed = 1 / measured.seconds_per_byte
                known = self._speeds.get(node)
                if known is None or not _alike(speed, known):
                    self._speeds[node] = speed
            if measured.round_trip_s > 0:
                self._round_trips_s[node] = measured.round_trip_s
        self._speeds = {node: speed for node, speed in self._speeds.items() if node in nodes}
        self._round_trips_s = {node: trip_s for node, trip_s in self._round_trips_s.items() if node in nodes}
        self._memories = {node: max(nodes[node].memory_bytes, 1) for node in self._speeds}
        self._compare()

    def _compare(self) -> None:
        """Finds the nodes whose speed is not the usual one for their memory."""
        memories = self._memories
        usual = median(speed / memories[node] for node, speed in self._speeds.items()) if memories else 0.0
        self._unusual = {
            node: speed for node, speed in self._speeds.items() if not _alike(speed, usual * memories[node])
        }

    def bytes_per_second(self, node: NodeId) -> float | None:
        """A node's speed, when it is not the usual one for its memory."""
        return self._unusual.get(node)

    def round_trip_s(self, node: NodeId) -> float:
        """A node's round trip; 0 when it is not known."""
        return self._round_trips_s.get(node, 0.0)


def _alike(one: float, other: float) -> bool:
    return one < other * ALIKE and other < one * ALIKE
