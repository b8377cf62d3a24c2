"""Every node that the coordinator knows of, attached or not.

Guarantees: a node has one `Member` for the life of the coordinator's process, so what was learnt of it (faults above all)
is not forgotten when it comes back under the same key. Touched on the event loop only; `NodeRecord` from any thread.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from ...ids import ExpertKey, NodeId, short

if TYPE_CHECKING:
    from .link import Link

MAX_MEMBERS = 100_000


class NodeState(StrEnum):
    """Where a node stands."""

    JOINING = "joining"
    """Attached, and not yet told what to hold."""
    DOWNLOADING = "downloading"
    """Some of what it was told to hold is not ready."""
    READY = "ready"
    """All that it was told to hold, and did not refuse, is ready."""
    LOST = "lost"
    """Not attached; `Member.reason` says why."""
    QUARANTINED = "quarantined"
    """Cut off because a result of its was rejected."""


class NodeRecord:
    """How a node's results fared; exact under any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._verified = self._rejected = 0

    def verified(self) -> None:
        """One more result was found right."""
        with self._lock:
            self._verified += 1

    def rejected(self) -> None:
        """One more result was thrown away."""
        with self._lock:
            self._rejected += 1

    @property
    def results_verified(self) -> int:
        """Results that were found right."""
        return self._verified

    @property
    def results_rejected(self) -> int:
        """Results that were thrown away."""
        return self._rejected


@dataclass(slots=True, eq=False)
class Member:
    """What is known of one node.

    Attributes:
        node: Who it is.
        name: What people call it; empty until it enrols with this process.
        state, reason: Where it stands, and why if that needs a reason.
        link: Its link; None while it has none.
        memory_bytes: What it lends.
        usable_bytes: What it lends less what it refused for.
        epoch: Number of the newest assignment of this link; 0 before the first.
        assigned: What it was told to hold; remembered while it is lost.
        ready: What it reported ready.
        refused: What it reported that it will not hold.
        dropping: What it was told to drop, and in which epoch, until it answers for that epoch.
        fetched_bytes, held_bytes: As it reported.
        logged_software: SHA-256 of the software under which the public log has it; empty before.
        faults: Links on which a result was rejected.
        counted_on: Whether placement counts on it: attached, or lost for less than the grace.
    """

    node: NodeId
    name: str = ""
    state: NodeState = NodeState.LOST
    reason: str = ""
    link: Link | None = None
    memory_bytes: int = 0
    usable_bytes: int = 0
    epoch: int = 0
    assigned: frozenset[ExpertKey] = frozenset()
    ready: frozenset[ExpertKey] = frozenset()
    refused: frozenset[ExpertKey] = frozenset()
    dropping: dict[ExpertKey, int] = field(default_factory=dict)
    fetched_bytes: int = 0
    held_bytes: int = 0
    logged_software: bytes = b""
    faults: int = 0
    counted_on: bool = False
    record: NodeRecord = field(default_factory=NodeRecord)

    @property
    def routable(self) -> frozenset[ExpertKey]:
        """What frames may ask of it: ready, and not told to drop."""
        told = self.ready & self.assigned if self.epoch else self.ready
        return told.difference(self.dropping) if self.dropping else told

    def attached(self, link: Link, memory_bytes: int) -> None:
        """A new link is up; nothing is ready on it until the node says so."""
        self.link, self.memory_bytes, self.usable_bytes = link, memory_bytes, memory_bytes
        self.epoch, self.ready, self.refused, self.dropping = 0, frozenset(), frozenset(), {}
        self.fetched_bytes = self.held_bytes = 0
        self.state, self.reason, self.counted_on = NodeState.JOINING, "", True

    def detached(self, state: NodeState, reason: str) -> None:
        """The link is gone."""
        self.link, self.ready, self.dropping = None, frozenset(), {}
        self.state, self.reason = state, reason

    def told(self, assigned: frozenset[ExpertKey]) -> None:
        """A new assignment goes out."""
        self.epoch += 1
        for key in self.ready - assigned:
            self.dropping[key] = self.epoch
        self.assigned = assigned
        self._settle_state()

    def reported(self, epoch: int, ready: frozenset[ExpertKey], refused: frozenset[ExpertKey]) -> None:
        """The node said what it holds."""
        self.ready, self.refused = ready, refused
        self.dropping = {key: told for key, told in self.dropping.items() if told > epoch}
        self._settle_state()

    def _settle_state(self) -> None:
        if self.epoch:
            complete = self.assigned <= self.ready | self.refused
            self.state = NodeState.READY if complete else NodeState.DOWNLOADING


class Roster:
    """Members by node."""

    def __init__(self) -> None:
        self._members: dict[NodeId, Member] = {}

    def enrolled(self, node: NodeId, name: str) -> Member:
        """The member of a node that has just enrolled; forgets a lost one without faults when there are too many."""
        member = self._members.get(node)
        if member is None:
            if len(self._members) >= MAX_MEMBERS:
                self._forget_one()
            member = self._members[node] = Member(node)
        member.name = name or f"node {short(node)}"
        return member

    def expected(self, node: NodeId, memory_bytes: int, assigned: frozenset[ExpertKey]) -> Member:
        """A node of this coordinator's last life, which may come back; `find` does not know it until it enrols."""
        member = self._members[node] = Member(
            node, memory_bytes=memory_bytes, usable_bytes=memory_bytes, assigned=assigned, counted_on=True
        )
        return member

    def find(self, node: NodeId) -> Member | None:
        """The member of a node, when it has enrolled in this process's life."""
        member = self._members.get(node)
        return member if member is not None and member.name else None

    def all(self) -> list[Member]:
        """All members, in the order in which they were first known."""
        return list(self._members.values())

    def enrolled_members(self) -> list[Member]:
        """Members that have enrolled in this process's life."""
        return [member for member in self._members.values() if member.name]

    def attached(self) -> list[Member]:
        """Members that have a link."""
        return [member for member in self._members.values() if member.link is not None]

    def _forget_one(self) -> None:
        for node, member in self._members.items():
            if member.link is None and not member.faults:
                del self._members[node]
                return
