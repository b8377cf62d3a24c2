"""What a node says of itself while it works: its state, and how far its downloads are.

Guarantees: one line for each change of state, and while experts are got ready one line each interval, with bytes, rate and
percent; nothing is said twice in a row. While there is a link, the state is what the coordinator said last on it; the node's
own view counts until the coordinator has said something.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..amounts import format_bytes
from ..node_states import Lifecycle, NodeState, StateChange

log = logging.getLogger(__name__)

STOPPED: Final = "stopped"
_BAD_NEWS: Final = frozenset({NodeState.LOST, NodeState.QUARANTINED})


class Status:
    """The node's state, said aloud when it changes."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds of the calendar."""
        self._clock = clock
        self._life = Lifecycle(NodeState.JOINING, "starting", clock())
        self._guided = False
        self._said = ""

    @property
    def state(self) -> NodeState:
        """Where the node is in its life."""
        return self._life.state

    @property
    def reason(self) -> str:
        """Why."""
        return self._life.reason

    @property
    def since_unix_s(self) -> float:
        """Since when."""
        return self._life.since_unix_s

    @property
    def history(self) -> tuple[StateChange, ...]:
        """The last changes, the present one last."""
        return self._life.history

    def joining(self, details: str) -> None:
        """The node is on its way in; what a coordinator said before is over."""
        self._guided = False
        self._enter(NodeState.JOINING, details)

    def lost(self, why: str) -> None:
        """There is no link any more."""
        self._guided = False
        self._enter(NodeState.LOST, why)

    def stopped(self) -> None:
        """The node has ended."""
        self._guided = False
        self._life.enter(NodeState.LOST, STOPPED, self._clock())
        self._log(STOPPED, logging.INFO)

    def told(self, state: NodeState, reason: str) -> None:
        """The coordinator said where the node is. Raises StateChangeError when it cannot be there now."""
        self._guided = True
        self._enter(state, reason)

    def seems(self, state: NodeState, details: str) -> None:
        """How the node sees itself; where a coordinator has spoken this is only said."""
        if self._guided:
            self.say(details)
        else:
            self._enter(state, details)

    def say(self, details: str) -> None:
        """Says how the present state goes."""
        self._log(f"{self.state}: {details}", logging.INFO)

    def _enter(self, state: NodeState, reason: str) -> None:
        self._life.enter(state, reason, self._clock())
        level = logging.WARNING if state in _BAD_NEWS else logging.INFO
        self._log(f"{state}: {reason}" if reason else state.value, level)

    def _log(self, line: str, level: int) -> None:
        if line != self._said:
            self._said = line
            log.log(level, "%s", line)


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
