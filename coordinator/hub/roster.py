"""Every node that the coordinator knows of, attached or not.

Guarantees: a node has one `Member` for the life of the coordinator's process, so what was learnt of it (faults above all)
is not forgotten when it comes back under the same key. A member's state changes by `enter` alone, which keeps to the rules of
`node_states` and tells whoever watches. Touched on the event loop only; `NodeRecord` from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...ids import ExpertKey, NodeId, short
from ...node_states import Lifecycle, NodeState, StateChange, Wish

if TYPE_CHECKING:
    from .link import Link

MAX_MEMBERS = 100_000


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


def _unknown() -> Lifecycle:
    return Lifecycle(NodeState.LOST, "", time.time())


def _nobody(member: Member, change: StateChange) -> None:
    """Watches nothing."""


@dataclass(slots=True, eq=False)
class Member:
    """What is known of one node.

    Attributes:
        node: Who it is.
        name: What people call it; empty until it enrols with this process.
        life: Its states so far.
        on_change: Told of each change of state, or of its reason.
        link: Its link; None while it has none.
        memory_bytes: What it lends.
        usable_bytes: What it lends less what it refused for.
        epoch: Number of the newest assignment of this link; 0 before the first.
        assigned: What it was told to hold; remembered while it is lost.
        ready: What it reported ready.
        refused: What it reported that it will not hold.
        refusal: Why it refuses that, as it reported.
        dropping: What it was told to drop, and in which epoch, until it answers for that epoch.
        cleared: What may serve on this link, because rows whose answers are known came back right; None where nothing is probed.
        proven: What was cleared on any link of this node.
        wish, wish_reason: What its contributor wants, and why.
        note: What else there is to say of one that is ready.
        may_go: Whether one that drains was told that nothing depends on it any more.
        trouble: What keeps it from where it wants to be; empty when nothing does.
        fetched_bytes, held_bytes: As it reported.
        faults: Links on which a result was rejected.
        counted_on: Whether placement counts on it: attached and wanting to serve, or gone for less than the grace.
    """

    node: NodeId
    name: str = ""
    life: Lifecycle = field(default_factory=_unknown)
    on_change: Callable[[Member, StateChange], None] = _nobody
    link: Link | None = None
    memory_bytes: int = 0
    usable_bytes: int = 0
    epoch: int = 0
    assigned: frozenset[ExpertKey] = frozenset()
    ready: frozenset[ExpertKey] = frozenset()
    refused: frozenset[ExpertKey] = frozenset()
    refusal: str = ""
    dropping: dict[ExpertKey, int] = field(default_factory=dict)
    cleared: frozenset[ExpertKey] | None = None
    proven: frozenset[ExpertKey] = frozenset()
    wish: Wish = Wish.SERVE
    wish_reason: str = ""
    trouble: str = ""
    note: str = ""
    may_go: bool = False
    fetched_bytes: int = 0
    held_bytes: int = 0
    faults: int = 0
    counted_on: bool = False
    record: NodeRecord = field(default_factory=NodeRecord)
    _to_get: str = ""

    @property
    def state(self) -> NodeState:
        """Where it stands."""
        return self.life.state

    @property
    def reason(self) -> str:
        """Why it stands there, if that needs a reason."""
        return self.life.reason

    @property
    def holds(self) -> frozenset[ExpertKey]:
        """What it has, was not told to drop, and could serve."""
        told = self.ready & self.assigned if self.epoch else self.ready
        return told.difference(self.dropping) if self.dropping else told

    @property
    def unproven(self) -> frozenset[ExpertKey]:
        """What of it has to be probed before it serves."""
        return frozenset() if self.cleared is None else self.holds - self.cleared

    @property
    def routable(self) -> frozenset[ExpertKey]:
        """What frames may ask of it."""
        if self.wish is Wish.PAUSE:
            return frozenset()
        return self.holds if self.cleared is None else self.holds & self.cleared

    def enter(self, state: NodeState, reason: str) -> None:
        """Enters a state, or stays in it for another reason. Raises StateChangeError when the state may not follow."""
        change = self.life.enter(state, reason, time.time())
        if change is not None:
            self.on_change(self, change)

    def attached(self, link: Link, memory_bytes: int, *, probed: bool = False) -> None:
        """A new link is up; nothing is ready on it until the node says so, and where nodes are probed nothing serves before."""
        self.link, self.memory_bytes, self.usable_bytes = link, memory_bytes, memory_bytes
        self.epoch, self.ready, self.refused, self.dropping = 0, frozenset(), frozenset(), {}
        self.cleared = frozenset() if probed else None
        self.wish, self.wish_reason, self.trouble, self.refusal = Wish.SERVE, "", "", ""
        self.note, self.may_go = "", False
        self.fetched_bytes = self.held_bytes = 0
        self.counted_on = True
        self.enter(NodeState.JOINING, "attached")

    def detached(self, state: NodeState, reason: str) -> None:
        """The link is gone, or goes with this."""
        self.ready, self.dropping = frozenset(), {}
        self.enter(state, reason)
        self.link = None

    def told(self, assigned: frozenset[ExpertKey]) -> None:
        """A new assignment goes out."""
        self.epoch += 1
        for key in self.ready - assigned:
            self.dropping[key] = self.epoch
        self.assigned = assigned
        self._to_get = f"{len(assigned - self.ready)} of {len(assigned)} experts to get"
        self.settle()

    def reported(
        self, epoch: int, ready: frozenset[ExpertKey], refused: frozenset[ExpertKey], refusal: str = ""
    ) -> None:
        """The node said what it holds."""
        if self.cleared is not None:
            self.cleared &= ready
        self.ready, self.refused, self.refusal = ready, refused, refusal if refused else ""
        self.dropping = {key: told for key, told in self.dropping.items() if told > epoch}
        self.settle()

    def proved(self, keys: frozenset[ExpertKey]) -> None:
        """What it answered about these was right: they may serve."""
        if self.cleared is not None:
            self.cleared |= keys & self.ready
        self.proven |= keys
        self.trouble = ""
        self.settle()

    def settle(self) -> None:
        """Enters the state that follows from all of this."""
        if self.link is not None:
            self.enter(*self._where())

    def _where(self) -> tuple[NodeState, str]:
        if self.wish is Wish.PAUSE:
            return NodeState.PAUSED, "; ".join(filter(None, (self.wish_reason, self.trouble)))
        if self.wish is Wish.DRAIN:
            return NodeState.DRAINING, "; ".join(filter(None, (self.wish_reason, self.trouble)))
        if not self.epoch:
            return NodeState.JOINING, "attached"
        if not self.assigned <= self.ready | self.refused:
            return NodeState.DOWNLOADING, self._to_get
        if self.unproven:
            return NodeState.PROBING, self.trouble or "what it holds is tried before it serves"
        return NodeState.READY, "; ".join(filter(None, (self.refusal, self.note)))


class Roster:
    """Members by node.

    Attributes:
        on_change: Told of each change of the state of members that come from now on, or of the reason for it.
    """

    def __init__(self) -> None:
        self._members: dict[NodeId, Member] = {}
        self.on_change: Callable[[Member, StateChange], None] = _nobody

    def enrolled(self, node: NodeId, name: str) -> Member:
        """The member of a node that has just enrolled; forgets a lost one without faults when there are too many."""
        member = self._members.get(node)
        if member is None:
            if len(self._members) >= MAX_MEMBERS:
                self._forget_one()
            member = self._members[node] = Member(node, on_change=self.on_change)
        member.name = name or f"node {short(node)}"
        return member

    def expected(self, node: NodeId, memory_bytes: int, assigned: frozenset[ExpertKey]) -> Member:
        """A node of this coordinator's last life, which may come back; `find` does not know it until it enrols."""
        member = self._members[node] = Member(
            node,
            on_change=self.on_change,
            memory_bytes=memory_bytes,
            usable_bytes=memory_bytes,
            assigned=assigned,
            counted_on=True,
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
