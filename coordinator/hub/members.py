"""What becomes of nodes when their links come, report and go.

Guarantees: a node that is attached, told what to hold and reports it ready gets frames, where nodes are probed only once it
was right about what it was tried with; one whose result was rejected loses its link at once and gets no frame until it attaches
anew, and one that this happens to too often is quarantined, until the operator admits it. Each change of a node's state is in the
log, is told to the node, and to whoever watches.

All of it lives on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ...errors import FolkmootError
from ...ids import ExpertKey, NodeId, short
from ...node_states import NodeState, StateChange, Wish
from ...protos.folkmoot.v1 import link_pb2
from ...protos.limits import MAX_REASON
from ...protos.wire_states import wire_state
from ..audit.standing_book import StandingBook
from ..dispatch.directory import Directory
from ..ledger.scribe import Scribe
from ..placement.snapshot import Target
from ..probe.checking import Speed
from ..probe.prober import Prober
from .attaching import Report
from .coverage_log import CoverageLog
from .departures import Departures
from .graces import Graces
from .link import Link
from .roster import Member, Roster
from .settings import HubSettings
from .steward import Steward

log = logging.getLogger(__name__)


class Members:
    """The `Reception` of one network's links, and whoever acts on its probes."""

    def __init__(
        self,
        roster: Roster,
        directory: Directory,
        steward: Steward,
        departures: Departures,
        graces: Graces,
        standings: StandingBook,
        settings: HubSettings,
        scribe: Scribe | None,
        prober: Prober | None,
    ) -> None:
        """`scribe` gives receipts; `prober` tries nodes before they get traffic, None lets all serve at once."""
        self._roster = roster
        self._directory = directory
        self._steward = steward
        self._departures = departures
        self._graces = graces
        self._standings = standings
        self._settings = settings
        self._scribe = scribe
        self._prober = prober
        self._coverage_log = CoverageLog()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers: list[Callable[[NodeId, StateChange], None]] = []
        steward.after_turn = self._turned
        standings.subscribe(self._standing_changed)
        roster.on_change = self._state_changed

    def start(self) -> None:
        """From now on follows what happens on the running event loop."""
        self._loop = asyncio.get_running_loop()

    def subscribe(self, on_change: Callable[[NodeId, StateChange], None]) -> None:
        """Calls the function after each change of a node's state or of the reason for it."""
        self._watchers.append(on_change)

    def refusal(self, node: NodeId) -> str | None:
        """Why the node may not come back; None when it may."""
        member = self._roster.find(node)
        if member is not None and member.faults >= self._settings.faults_before_ban:
            return "this node was cut off too often for wrong results"
        return self._standings.refusal(node)

    def joined(self, link: Link, member: Member, memory_bytes: int) -> None:
        """A node is attached; an earlier link of the same node gives way.

        One that was quarantined while it shook hands goes at once.
        """
        if (refusal := self.refusal(member.node)) is not None:
            link.cut(refusal, retry=False)
            return
        self._standings.met(member.node, member.name)
        self._graces.forget(member.node)
        if member.link is not None:
            earlier = member.link
            self._detach(earlier, member, NodeState.LOST, "replaced by a newer link")
            earlier.cut("another link of this node took its place", retry=False)
        member.attached(link, memory_bytes, probed=self._prober is not None)
        if self._prober is not None:
            member.proven |= self._prober.recall(member.node)
        if self._scribe is not None:
            self._scribe.attached(link)
        self._steward.members_changed()

    def reported(self, link: Link, report: Report) -> None:
        """A node said what it holds."""
        member = self._member_of(link)
        if member is None:
            return
        refused_more = not report.refused <= member.refused
        before = member.state, member.reason
        member.reported(report.epoch, report.ready, report.refused, report.reason)
        member.fetched_bytes, member.held_bytes = report.bytes_fetched, report.bytes_held
        changed = refused_more or (member.state, member.reason) != before
        if changed and not self._may_change(link, member):
            return
        if refused_more:
            log.warning(
                "node %s (%s) refuses %d experts: %s",
                short(member.node),
                member.name,
                len(report.refused),
                report.reason,
            )
        self._steward.reported(member, refused_more)
        self._probe(member)
        self._tell_coverage()

    def proved(self, link: Link, keys: frozenset[ExpertKey], speed: Speed | None) -> None:
        """What a node was tried with was right: it may serve that, unless it has gone or come anew since."""
        member = self._member_of(link)
        if member is None or link.closed.is_set():
            return
        member.proved(keys)
        if speed is not None:
            self._steward.measured(member, speed.bytes_per_second)
        self._steward.route(member)
        if member.wish is Wish.SERVE and not member.counted_on:
            self._steward.counts_on(member, counted_on=True)
        self._steward.look_again()
        self._tell_coverage()

    def stalled(self, link: Link) -> None:
        """A node does not answer what it is tried with: others are given what it should hold, until it does."""
        member = self._member_of(link)
        if member is not None:
            self._steward.counts_on(member, counted_on=False)

    def refuted(self, link: Link, error: FolkmootError) -> None:
        """What a node answered when it was tried was wrong."""
        self._cut_off(link, error, "probe", error.message)

    def wished(self, link: Link, wish: Wish, reason: str, *, at_once: bool) -> None:
        """A contributor wants something of a node."""
        member = self._member_of(link)
        if member is not None and self._may_change(link, member):
            self._departures.wished(member, wish, reason, at_once=at_once)
            self._tell_coverage()

    def leaving(self, link: Link, reason: str) -> None:
        """A node goes on purpose: nobody waits for its return."""
        member = self._member_of(link)
        if member is not None:
            log.info("node %s (%s) leaves: %s", short(member.node), member.name, reason)
            self._detach(link, member, NodeState.LOST, f"left: {reason}" if reason else "left")
            link.close(f"left: {reason}")
            self._steward.counts_on(member, counted_on=False)

    def on_fault(self, link: Link, error: FolkmootError, reason: str) -> None:
        """A result was rejected: the node is cut off."""
        self._cut_off(link, error, reason, f"a result was rejected ({reason})")

    def left(self, link: Link) -> None:
        """A link has ended, for whatever reason."""
        if self._scribe is not None:
            self._scribe.left(link)
        member = self._member_of(link)
        if member is None:
            return
        log.warning("node %s (%s) is lost: %s", short(member.node), member.name, link.why_closed)
        self._detach(link, member, NodeState.LOST, link.why_closed)
        if not self._directory.closed:
            self._graces.begin(member)

    def acknowledged(self, link: Link, message: link_pb2.Acknowledgement) -> None:
        """A node agrees with a receipt."""
        if self._scribe is not None:
            self._scribe.acknowledged(link, message)

    def _may_change(self, link: Link, member: Member) -> bool:
        """Takes a change from what the link may; one that has none left is cut, and the node may come back."""
        assert self._loop is not None
        if link.changes.take(self._loop.time()):
            return True
        why = "changed what it wants or holds too often"
        log.warning("node %s (%s) is cut off: it %s", short(member.node), member.name, why)
        self._detach(link, member, NodeState.LOST, why)
        self._graces.begin(member)
        link.cut(why, retry=True)
        return False

    def _cut_off(self, link: Link, error: FolkmootError, reason: str, why: str) -> None:
        member = self._member_of(link)
        if member is None:
            return
        member.faults += 1
        banned = self.refusal(member.node) is not None
        log.warning(
            "node %s (%s) is cut off%s: a result was rejected (%s): %s",
            short(member.node),
            member.name,
            " for good" if banned else "",
            reason,
            error,
        )
        self._detach(link, member, NodeState.QUARANTINED, why)
        self._steward.counts_on(member, counted_on=False)
        link.cut(f"a result was rejected ({reason}): {error}", retry=not banned)
        if banned and self._standings.of(member.node).serves:
            assert self._loop is not None
            why = f"cut off {member.faults} times for results that cannot be used, the last time: {why}"
            # The event loop waits for no disk. Until it is kept, the member's faults keep the node out.
            kept = self._loop.run_in_executor(None, self._standings.quarantined, member.node, why)
            kept.add_done_callback(_log_fault)

    def _standing_changed(self, node: NodeId) -> None:
        """A node's status has changed, in whatever thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._follow_standing, node)

    def _follow_standing(self, node: NodeId) -> None:
        """A node that may not serve any more loses its link and its experts; one that may again is let in."""
        member, refusal = self._roster.find(node), self._standings.refusal(node)
        if member is None:
            return
        if refusal is None:
            if member.state is NodeState.QUARANTINED:
                member.faults = 0
            self._steward.members_changed()
            return
        link = member.link
        if link is not None:
            log.warning("node %s (%s) is cut off: %s", short(node), member.name, refusal)
            self._detach(link, member, NodeState.QUARANTINED, refusal)
            link.cut(refusal, retry=False)
        member.enter(NodeState.QUARANTINED, self._standings.of(node).reason)
        self._steward.counts_on(member, counted_on=False)

    def _member_of(self, link: Link) -> Member | None:
        """The member whose present link this is."""
        member = self._roster.find(link.node)
        return member if member is not None and member.link is link else None

    def _detach(self, link: Link, member: Member, state: NodeState, reason: str) -> None:
        member.detached(state, reason)
        self._directory.remove(link)
        self._tell_coverage()

    def _probe(self, member: Member) -> None:
        if self._prober is not None:
            self._prober.look(member, self)

    def _turned(self, target: Target) -> None:
        """Everybody was told what to hold."""
        self._departures.review(target)
        for member in self._roster.attached():
            self._probe(member)

    def _tell_coverage(self) -> None:
        self._coverage_log.tell(self._directory.coverage)

    def _state_changed(self, member: Member, change: StateChange) -> None:
        """A member's state has changed, or the reason for it: the node hears of it, and whoever watches."""
        log.info(
            "node %s (%s) is %s%s",
            short(member.node),
            member.name,
            change.state,
            f": {change.reason}" if change.reason else "",
        )
        if member.link is not None and change.state is not NodeState.LOST:
            told = link_pb2.StateChange(
                state=wire_state(change.state), reason=change.reason[:MAX_REASON], may_go=member.may_go
            )
            member.link.post(link_pb2.CoordinatorMessage(state_change=told))
        for watcher in self._watchers:
            watcher(member.node, change)


def _log_fault(kept: asyncio.Future[None]) -> None:
    if not kept.cancelled() and (error := kept.exception()) is not None:
        log.error("a node that was cut off too often is not kept out over a restart: %s", error)
