"""Where a node is in its life, said aloud while it works.

Guarantees: one line for each change of state; nothing is said twice in a row. While there is a link, the state is what the
coordinator said last on it; the node's own view counts until the coordinator has said something.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from ..node_states import MAY_FOLLOW, Lifecycle, NodeState

log = logging.getLogger(__name__)

STOPPED: Final = "stopped"
_BAD_NEWS: Final = frozenset({NodeState.LOST, NodeState.QUARANTINED})


class SpokenState:
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

    def joining(self, details: str) -> None:
        """The node is on its way in; what a coordinator said before is over."""
        self._guided = False
        if self.state is not NodeState.JOINING and NodeState.JOINING not in MAY_FOLLOW[self.state]:
            self._life.enter(NodeState.LOST, "left", self._clock())
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
