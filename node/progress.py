"""What a node says of itself while it works: its state, and how far its downloads are.

Guarantees: one line for each change of state, and while experts are got ready one line each interval, with bytes, rate and
percent; nothing is said twice in a row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from ..amounts import format_bytes

log = logging.getLogger(__name__)


class NodeState(StrEnum):
    """Where a node is in its life."""

    STARTING = "starting"
    JOINING = "joining"
    WAITING = "waiting for an assignment"
    DOWNLOADING = "downloading"
    LOADING = "loading from disk"
    READY = "ready"
    LOST = "lost"
    STOPPED = "stopped"


class Status:
    """The node's state, said aloud when it changes."""

    def __init__(self) -> None:
        self.state = NodeState.STARTING
        self._said = ""

    def change(self, state: NodeState, details: str = "") -> None:
        """Enters a state; entering the same one again says something only when the details are new."""
        line = f"{state}: {details}" if details else state.value
        self.state = state
        if line != self._said:
            self._said = line
            log.log(logging.WARNING if state is NodeState.LOST else logging.INFO, "%s", line)

    def say(self, details: str) -> None:
        """Says how the present state goes."""
        self.change(self.state, details)


@dataclass
class Progress:
    """How far one assignment is.

    Attributes:
        total_bytes, total_experts: Of all experts that are to be held.
        ready_bytes, ready_experts: Of those that are.
        fetched: Bytes that came over the network so far, as a counter that only grows.
    """

    total_bytes: int
    total_experts: int
    fetched: Callable[[], int]
    ready_bytes: int = 0
    ready_experts: int = 0

    def __post_init__(self) -> None:
        self._began_s = self._last_s = time.monotonic()
        self._began_fetched = self._last_fetched = self.fetched()

    def line(self) -> str:
        """Percent, bytes, and the download's rate since the last line."""
        now_s, fetched = time.monotonic(), self.fetched()
        rate = (fetched - self._last_fetched) / max(now_s - self._last_s, 1e-6)
        self._last_s, self._last_fetched = now_s, fetched
        return f"{self._done()}, {format_bytes(rate)}/s"

    def summary(self) -> str:
        """What was reached, and what it took."""
        took_s = time.monotonic() - self._began_s
        fetched = self.fetched() - self._began_fetched
        return f"{self._done()}, {format_bytes(fetched)} fetched in {took_s:.1f} s"

    def _done(self) -> str:
        percent = 100 * self.ready_bytes // self.total_bytes if self.total_bytes else 100
        return (
            f"{percent} % ({self.ready_experts} of {self.total_experts} experts, "
            f"{format_bytes(self.ready_bytes)} of {format_bytes(self.total_bytes)})"
        )
