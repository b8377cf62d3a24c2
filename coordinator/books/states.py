"""How nodes' states changed: when, to what, and why.

Guarantees: telling never waits; nobody is told before it is written, and nothing depends on it, so the last seconds before a crash
may be missing; while the books cannot be written the newest `MOST_WAITING` changes are kept, older ones are forgotten. The times of
a node only grow while the coordinator runs, whatever the clock does; after a restart with the clock set back they may not.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, select

from ...ids import NodeId
from ...protos.limits import MAX_REASON
from .tables import states
from .texts import storable
from .upsert import upsert
from .writer import BooksWriter

MOST_WAITING: Final = 1 << 16
MOST_REMEMBERED: Final = 100_000


@dataclass(frozen=True, slots=True)
class StateChange:
    """One change.

    Attributes:
        node: Whose.
        since_us: When, in microseconds of the calendar.
        state: What it has been since.
        reason: Why, if that needs saying.
    """

    node: NodeId
    since_us: int
    state: str
    reason: str


class StateHistory:
    """The changes of all nodes' states. Any thread."""

    def __init__(self, writer: BooksWriter) -> None:
        self._changes = writer.group("changes of state", parted=True).staged(_write, most=MOST_WAITING)
        self._lock = threading.Lock()
        self._newest: dict[NodeId, StateChange] = {}

    def changed(self, node: NodeId, state: str, reason: str, at_unix_s: float) -> None:
        """A node is in this state now; the same as before, for the same reason, is no change."""
        reason = storable(reason)[:MAX_REASON]
        with self._lock:
            before = self._newest.get(node)
            if before is not None and (before.state, before.reason) == (state, reason):
                return
            since_us = max(int(at_unix_s * 1e6), before.since_us + 1 if before is not None else 0)
            change = self._newest[node] = StateChange(node, since_us, state, reason)
            if len(self._newest) > MOST_REMEMBERED:
                del self._newest[next(iter(self._newest))]
        self._changes.put((node, since_us), change)


def history(connection: Connection, node: NodeId, most: int) -> list[StateChange]:
    """A node's newest changes, oldest first."""
    query = select(states).where(states.c.node == node).order_by(states.c.since_us.desc()).limit(most)
    found = connection.execute(query).all()
    return [StateChange(NodeId(row.node), row.since_us, row.state, row.reason) for row in reversed(found)]


def forget_states(connection: Connection, before_unix_s: int) -> None:
    """Forgets older changes."""
    connection.execute(delete(states).where(states.c.since_us < before_unix_s * 1_000_000))


def _write(connection: Connection, changes: dict[tuple[NodeId, int], StateChange]) -> None:
    rows = [
        {"node": one.node, "since_us": one.since_us, "state": one.state, "reason": one.reason}
        for one in changes.values()
    ]
    upsert(connection, states, rows)
