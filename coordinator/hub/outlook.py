"""What placement is told of traffic, speeds and round trips: what was true when it was last looked at.

Guarantees: between two looks nothing changes, so that no measurement moves an expert by itself; a speed that differs from what
is usual for the node's memory by less than `ALIKE` counts as usual, and one that was taken in is replaced only when it has changed by
more than that. No method waits; `look` may be called from any thread, by one at a time.
"""

from __future__ import annotations

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
        self._speeds: dict[NodeId, float] = {}
        self._unusual: dict[NodeId, float] = {}
        self._round_trips_s: dict[NodeId, float] = {}

    def fold(self) -> None:
        """Takes in what rows were sent since the last time; changes nothing that placement sees."""
        if self._usage is not None:
            self._usage.fold()

    def look(self, nodes: Mapping[NodeId, Measured]) -> None:
        """From now on placement sees what is true now."""
        if self._usage is not None:
            self.traffic = self._usage.traffic() or self.traffic
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
        memories = {node: max(nodes[node].memory_bytes, 1) for node in self._speeds}
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
