"""The states of a node, as both ends of a link name them, and which may follow which; what its contributor may wish for.

Guarantees: a `Lifecycle` is always in exactly one state, knows why and since when, and enters no state that may not follow the
one before; its memory of changes is bounded. Pure: the time of a change is an argument.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from .errors import FolkmootError


class NodeState(StrEnum):
    """Where a node is in its life with one coordinator."""

    JOINING = "joining"
    """On its way in: connecting, enrolling, or attached and not yet told what to hold."""
    DOWNLOADING = "downloading"
    """Some of what it was told to hold is not ready; what is ready serves."""
    PROBING = "probing"
    """It holds what it should, and answers rows whose answers are known before it gets traffic for all of it."""
    READY = "ready"
    """All that it was told to hold, and did not refuse, serves."""
    DRAINING = "draining"
    """It wants to go: it serves until others hold what it has, and is given nothing new."""
    PAUSED = "paused"
    """At the contributor's word it gets no work; what it holds is kept."""
    QUARANTINED = "quarantined"
    """Cut off for what it answered."""
    LOST = "lost"
    """There is no link."""


class Wish(StrEnum):
    """What a node's contributor wants of it."""

    SERVE = "serve"
    PAUSE = "pause"
    """No work for now; what is held is kept."""
    DRAIN = "drain"
    """To go, once others hold what it has."""


ATTACHED: Final = frozenset(NodeState) - {NodeState.QUARANTINED, NodeState.LOST}
"""The states of a node that has a link."""

_AFTER_JOINING: Final = ATTACHED - {NodeState.JOINING}
_ENDS: Final = frozenset({NodeState.QUARANTINED, NodeState.LOST})

MAY_FOLLOW: Final[dict[NodeState, frozenset[NodeState]]] = {
    NodeState.JOINING: _AFTER_JOINING | _ENDS,
    NodeState.DOWNLOADING: _AFTER_JOINING | _ENDS,
    NodeState.PROBING: _AFTER_JOINING | _ENDS,
    NodeState.READY: _AFTER_JOINING | _ENDS,
    # Both may be wished for, and taken back, before the node was told what to hold.
    NodeState.DRAINING: ATTACHED | _ENDS,
    NodeState.PAUSED: ATTACHED | _ENDS,
    # Nobody serves straight from outside: whoever comes back joins first.
    NodeState.QUARANTINED: frozenset({NodeState.JOINING, NodeState.LOST}),
    NodeState.LOST: frozenset({NodeState.JOINING, NodeState.QUARANTINED}),
}
"""For each state, those that may come next; staying in it, with another reason, is no change of state."""

MOST_CHANGES: Final = 32
"""Changes of one node that are remembered."""


class StateChangeError(FolkmootError):
    """A node was to enter a state that may not follow the one that it is in."""


@dataclass(frozen=True, slots=True)
class StateChange:
    """That a node entered a state, or stayed in it for another reason.

    Attributes:
        state: The state since then.
        reason: Why; may be empty.
        at_unix_s: When.
    """

    state: NodeState
    reason: str
    at_unix_s: float


class Lifecycle:
    """One node's states so far."""

    __slots__ = ("_changes", "_since_unix_s")

    def __init__(self, state: NodeState, reason: str, now_unix_s: float) -> None:
        self._changes: deque[StateChange] = deque(
            [StateChange(state, reason, now_unix_s)], maxlen=MOST_CHANGES
        )
        self._since_unix_s = now_unix_s

    @property
    def state(self) -> NodeState:
        """The present state."""
        return self._changes[-1].state

    @property
    def reason(self) -> str:
        """Why it is in this state; may be empty."""
        return self._changes[-1].reason

    @property
    def since_unix_s(self) -> float:
        """When it entered this state, whatever other reasons to stay came since."""
        return self._since_unix_s

    @property
    def history(self) -> tuple[StateChange, ...]:
        """The last changes, the present one last."""
        return tuple(self._changes)

    def enter(self, state: NodeState, reason: str, now_unix_s: float) -> StateChange | None:
        """Enters a state, or stays in it for another reason; the change, None when there is none.

        Raises:
            StateChangeError: when the state may not follow the present one.
        """
        before = self._changes[-1]
        if (state, reason) == (before.state, before.reason):
            return None
        if state is not before.state:
            if state not in MAY_FOLLOW[before.state]:
                raise StateChangeError(
                    f"a node that is {before.state} cannot become {state} ({reason})",
                    advice="this is a fault of the program: report it with the log",
                )
            self._since_unix_s = now_unix_s
        change = StateChange(state, reason, now_unix_s)
        self._changes.append(change)
        return change
