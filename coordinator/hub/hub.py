"""The hub: the coordinator's side of every link, and all that depends on who is attached.

Guarantees: a node that is attached, told what to hold and reports it ready gets frames; one whose result was rejected loses
its link at once and gets no frame until it attaches anew, and one that this happens to three times is not let in again
while this process lives. `stop` ends every link with a reason and every waiting call with an error.

All of it lives on the event loop that `start` is awaited on, but for `directory` and `covered`, which any thread may ask.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import grpc

from ...errors import FolkmootError
from ...ids import NodeId, short
from ...node_states import Lifecycle, NodeState, StateChange, Wish
from ...protos.folkmoot.v1 import link_pb2
from ...protos.folkmoot.v1.enrolment_pb2_grpc import add_EnrolmentServicer_to_server
from ...protos.folkmoot.v1.experts_pb2_grpc import add_ExpertsServicer_to_server
from ...protos.folkmoot.v1.link_pb2_grpc import add_LinkServicer_to_server
from ...protos.limits import MAX_REASON, rows_per_frame, server_options
from ...protos.wire_states import wire_state
from ...trust.invite import Invite
from ...trust.keys import Identity, fingerprint
from ...trust.tls import TlsIdentity
from ..audit.settings import AuditSettings
from ..audit.standing_book import StandingBook
from ..books.contributors import Contributors
from ..books.placement_memory import PlacementMemory
from ..dispatch.counters import DispatchCounters
from ..dispatch.directory import Directory
from ..ledger.public_log import EntryLog
from ..ledger.scribe import Scribe
from ..listening import NODES_DOOR
from ..placement.usage import Usage
from ..self_host.hosting import SelfHosting
from .attaching import Attachments, Report
from .challenges import ChallengeTable
from .coverage_log import CoverageLog
from .departures import Departures
from .enrolment import Enrolments
from .experts_service import ExpertBlobs, ExpertSource
from .graces import Graces
from .link import Link
from .outlook import Outlook
from .reachable import reachable_address
from .roster import Member, Roster
from .settings import HubSettings
from .snapshot import NetworkSnapshot, NodeSnapshot
from .steward import Steward

log = logging.getLogger(__name__)

STOP_GRACE_S = 2.0
MAX_CALLS = 16384
"""Links, downloads and enrolments at once; more are turned away before they cost memory."""


class Hub:
    """The links of one coordinator's network."""

    def __init__(
        self,
        settings: HubSettings,
        identity: Identity,
        tls: TlsIdentity,
        join_secret: bytes,
        source: ExpertSource,
        counters: DispatchCounters,
        memory: PlacementMemory | None = None,
        standings: StandingBook | None = None,
        entry_log: EntryLog | None = None,
        scribe: Scribe | None = None,
        own: SelfHosting | None = None,
        contributors: Contributors | None = None,
    ) -> None:
        """`memory` keeps who was told to hold what over a restart; `standings`, who may serve; `entry_log` has who enrolled;
        `scribe` gives receipts; `own` is what the coordinator hosts itself; `contributors` know whose a node is."""
        self.settings = settings
        self.directory = Directory(source.manifest)
        self._identity = identity
        self._tls = tls
        self._join_secret = join_secret
        self._manifest = source.manifest
        self._counters = counters
        self._entry_log = entry_log
        self._scribe = scribe
        self._own = own
        self._contributors = contributors
        self._roster = Roster(self._state_changed)
        self._watchers: list[Callable[[NodeId, StateChange], None]] = []
        self._standings = standings or StandingBook(None, AuditSettings(enabled=False).standing)
        self._standings.subscribe(self._standing_changed)
        self._loop: asyncio.AbstractEventLoop | None = None
        # Where all experts work for every row, there is nothing to learn from who works with whom.
        self.usage = None if source.manifest.sliced else Usage(source.manifest.experts)
        self._steward = Steward(
            source.manifest,
            self._roster,
            self.directory,
            settings,
            memory,
            self._standings,
            Outlook(self.usage),
            own,
            str if contributors is None else contributors.owner_of,
        )
        self._graces = Graces(settings.lost_grace_s, self._give_up)
        sizes = {key: source.manifest.expert_bytes(key) for key in source.manifest.experts}
        self._departures = Departures(sizes, self._roster, self.directory, self._steward, self._graces)
        self._steward_task: asyncio.Task[None] | None = None
        self._blobs = ExpertBlobs(
            source, identity.public, settings.fetch_streams_per_node, settings.fetch_threads
        )
        self._server: grpc.aio.Server | None = None
        self._port = 0
        self._coverage_log = CoverageLog()

    async def start(self) -> None:
        """Listens, and places experts on whoever comes.

        Raises:
            PortInUseError: when another program has the port.
            ListenAddressError: when the address is not one to listen on.
            InviteError: when it is none for an invite.
        """
        settings = self.settings
        self._invite_to(settings.port or 1)  # what no invite can hold is found before anybody joins
        # gRPC would say no more than that it cannot.
        NODES_DOOR.check(settings.host, settings.port)
        server = grpc.aio.server(options=server_options(), maximum_concurrent_rpcs=MAX_CALLS)
        challenges = ChallengeTable(settings.challenge_lifetime_s)
        enrolments = Enrolments(
            self._identity,
            self._join_secret,
            self._roster,
            challenges,
            settings.ticket_lifetime_s,
            self.refusal,
            self._entry_log,
            self._contributors,
        )
        rows = rows_per_frame(self._manifest.hidden)
        attachments = Attachments(
            self._identity, self._manifest, rows, settings, self._roster, self._counters, self
        )
        add_EnrolmentServicer_to_server(enrolments, server)
        add_LinkServicer_to_server(attachments, server)
        add_ExpertsServicer_to_server(self._blobs, server)
        credentials = grpc.ssl_server_credentials([(self._tls.key_pem, self._tls.certificate_pem)])
        address = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            self._port = server.add_secure_port(f"{address}:{settings.port}", credentials)
        except RuntimeError as error:
            raise NODES_DOOR.in_use(settings.host, settings.port) from error
        self._loop = asyncio.get_running_loop()
        await self._steward.recall()
        await server.start()
        self._server = server
        self._steward_task = asyncio.create_task(self._steward.run())
        log.info("listening for nodes on %s port %d", address, self._port)

    async def stop(self) -> None:
        """Ends all links and stops listening. Calling it twice, or before `start`, is harmless."""
        self.directory.close()
        self._graces.clear()
        self._departures.close()
        if self._steward_task is not None:
            self._steward_task.cancel()
            await asyncio.gather(self._steward_task, return_exceptions=True)
            self._steward_task = None
        for member in self._roster.attached():
            if member.link is not None:
                member.link.cut("the coordinator stops", retry=True)
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)
            self._server = None
        self._blobs.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    @property
    def invite(self) -> Invite:
        """What lets a node join."""
        return self._invite_to(self._port)

    def covered(self) -> bool:
        """Whether every expert has a host; any thread."""
        return self.directory.coverage.complete

    def snapshot(self) -> NetworkSnapshot:
        """The network right now."""
        return NetworkSnapshot(
            model=self._manifest.name,
            manifest=self._manifest.digest,
            coverage=self.directory.coverage,
            nodes=self._nodes(),
            totals=self._counters.totals(),
            own=self._own.snapshot() if self._own is not None else None,
        )

    def history(self, node: NodeId) -> tuple[StateChange, ...]:
        """The last changes of a node's state, the present one last; empty for one that this process has not met."""
        member = self._roster.find(node)
        return () if member is None else member.life.history

    def subscribe(self, on_change: Callable[[NodeId, StateChange], None]) -> None:
        """Calls the function, on the event loop, after each change of a node's state or of the reason for it."""
        self._watchers.append(on_change)

    def refusal(self, node: NodeId) -> str | None:
        """Why the node may not come back; None when it may."""
        member = self._roster.find(node)
        if member is not None and member.faults >= self.settings.faults_before_ban:
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
        member.attached(link, memory_bytes)
        if self._scribe is not None:
            self._scribe.attached(link)
        self._steward.members_changed()

    def reported(self, link: Link, report: Report) -> None:
        """A node said what it holds."""
        member = self._member_of(link)
        if member is None:
            return
        refused_more = not report.refused <= member.refused
        member.reported(report.epoch, report.ready, report.refused, report.reason)
        member.fetched_bytes, member.held_bytes = report.bytes_fetched, report.bytes_held
        if refused_more:
            log.warning(
                "node %s (%s) refuses %d experts: %s",
                short(member.node),
                member.name,
                len(report.refused),
                report.reason,
            )
        self._steward.reported(member, refused_more)
        self._tell_coverage()

    def wished(self, link: Link, wish: Wish, reason: str, *, at_once: bool) -> None:
        """A contributor wants something of a node."""
        member = self._member_of(link)
        if member is not None:
            self._departures.wished(member, wish, reason, at_once=at_once)
            self._tell_coverage()

    def leaving(self, link: Link, reason: str) -> None:
        """A node goes on purpose: nobody waits for its return."""
        member = self._member_of(link)
        if member is not None:
            log.info("node %s (%s) leaves: %s", short(member.node), member.name, reason)
            self._detach(link, member, NodeState.LOST, f"left: {reason}" if reason else "left")
            link.close(f"left: {reason}")
            self._give_up(member)

    def on_fault(self, link: Link, error: FolkmootError, reason: str) -> None:
        """A result was rejected: the node is cut off."""
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
        self._detach(link, member, NodeState.QUARANTINED, f"a result was rejected ({reason})")
        self._give_up(member)
        link.cut(f"a result was rejected ({reason}): {error}", retry=not banned)

    def left(self, link: Link) -> None:
        """A link has ended, for whatever reason."""
        if self._scribe is not None:
            self._scribe.left(link)
        member = self._member_of(link)
        if member is None:
            return
        log.warning("node %s (%s) is lost: %s", short(member.node), member.name, link.why_closed)
        self._detach(link, member, NodeState.LOST, link.why_closed)
        if not self.directory.closed:
            self._graces.begin(member)

    def acknowledged(self, link: Link, message: link_pb2.Acknowledgement) -> None:
        """A node agrees with a receipt."""
        if self._scribe is not None:
            self._scribe.acknowledged(link, message)

    def _invite_to(self, port: int) -> Invite:
        host = self.settings.public_host or reachable_address(self.settings.host)
        return Invite(host, port, fingerprint(self._identity.public), self._join_secret)

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
        self._give_up(member)

    def _nodes(self) -> tuple[NodeSnapshot, ...]:
        """Every node that has enrolled in this process's life, and those that are known not to be let in."""
        members = self._roster.enrolled_members()
        known = {member.node for member in members}
        outside = [
            Member(
                node,
                record.name,
                Lifecycle(NodeState.QUARANTINED, record.standing.reason, record.standing.since_s),
            )
            for node, record in self._standings.records().items()
            if node not in known and not record.standing.serves
        ]
        return tuple(
            NodeSnapshot.of(member, self._standings.of(member.node)) for member in [*members, *outside]
        )

    def _member_of(self, link: Link) -> Member | None:
        """The member whose present link this is."""
        member = self._roster.find(link.node)
        return member if member is not None and member.link is link else None

    def _detach(self, link: Link, member: Member, state: NodeState, reason: str) -> None:
        member.detached(state, reason)
        self.directory.remove(link)
        self._tell_coverage()

    def _give_up(self, member: Member) -> None:
        member.counted_on = False
        self._steward.members_changed()

    def _tell_coverage(self) -> None:
        self._coverage_log.tell(self.directory.coverage)

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
