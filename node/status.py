"""What a node can say of itself at any moment.

Guarantees: plain data that does not change.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..node_states import NodeState


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node at one moment, as it stands with one coordinator.

    Attributes:
        state, reason, since_unix_s: Where it is in its life, why, and since when. While the node is connected this is what the
            coordinator said last.
        coordinator: The address that it joins, as the invite names it.
        name: What people call the node.
        node_id: Who it is.
        connected: Whether there is a link.
        wish: What the contributor asked for last: "serve", "pause" or "drain".
        experts_held, experts_assigned: How many are in memory, and how many should be.
        bytes_held, memory_bytes: Of experts in memory, and the most that may be.
        bytes_fetched: Over the network, since the link was attached.
        rows_done: Rows of the results that it signed, since it was started.
        results_signed: Results that it signed, since it was started.
    """

    state: NodeState
    reason: str
    since_unix_s: float
    coordinator: str
    name: str
    node_id: str
    connected: bool
    wish: str
    experts_held: int
    experts_assigned: int
    bytes_held: int
    memory_bytes: int
    bytes_fetched: int
    rows_done: int
    results_signed: int
