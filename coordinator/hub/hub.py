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
from functools import partial

import grpc

from ...ids import NodeId
from ...node_states import Lifecycle, NodeState, StateChange
from ...protos.folkmoot.v1.enrolment_pb2_grpc import add_EnrolmentServicer_to_server
from ...protos.folkmoot.v1.experts_pb2_grpc import add_ExpertsServicer_to_server
from ...protos.folkmoot.v1.link_pb2_grpc import add_LinkServicer_to_server
from ...protos.limits import rows_per_frame, server_options
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
from ..probe.prober import Prober
from ..self_host.hosting import SelfHosting
from .attaching import Attachments
from .challenges import ChallengeTable
from .departures import Departures
from .enrolment import Enrolments
from .experts_service import ExpertBlobs, ExpertSource
from .graces import Graces
from .members import Members
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
        prober: Prober | None = None,
    ) -> None:
        """`memory` keeps who was told to hold what over a restart; `standings`, who may serve; `entry_log` has who enrolled;
        `scribe` gives receipts; `own` is what the coordinator hosts itself; `contributors` know whose a node is;
        `prober` tries nodes before they get traffic."""
        self.settings = settings
        self.directory = Directory(source.manifest)
        self._identity = identity
        self._tls = tls
        self._join_secret = join_secret
        self._manifest = source.manifest
        self._counters = counters
        self._entry_log = entry_log
        self._own = own
        self._prober = prober
        self._contributors = contributors
        self._roster = Roster()
        self._standings = standings or StandingBook(None, AuditSettings(enabled=False).standing)
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
        self._graces = Graces(settings.lost_grace_s, partial(self._steward.counts_on, counted_on=False))
        sizes = {key: source.manifest.expert_bytes(key) for key in source.manifest.experts}
        self._departures = Departures(sizes, self._roster, self.directory, self._steward, self._graces)
        self._members = Members(
            self._roster,
            self.directory,
            self._steward,
            self._departures,
            self._graces,
            self._standings,
            settings,
            scribe,
            prober,
        )
        self._steward_task: asyncio.Task[None] | None = None
        self._blobs = ExpertBlobs(
            source, identity.public, settings.fetch_streams_per_node, settings.fetch_threads
        )
        self._server: grpc.aio.Server | None = None
        self._port = 0

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
            self._members.refusal,
            self._entry_log,
            self._contributors,
        )
        rows = rows_per_frame(self._manifest.hidden)
        attachments = Attachments(
            self._identity, self._manifest, rows, settings, self._roster, self._counters, self._members
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
        self._members.start()
        for member in await self._steward.recall():
            self._graces.begin(member, settings.restart_grace_s)
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
        if self._prober is not None:
            await self._prober.stop()
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

    def subscribe(self, on_change: Callable[[NodeId, StateChange], None]) -> None:
        """Calls the function, on the event loop, after each change of a node's state or of the reason for it."""
        self._members.subscribe(on_change)

    def _invite_to(self, port: int) -> Invite:
        host = self.settings.public_host or reachable_address(self.settings.host)
        return Invite(host, port, fingerprint(self._identity.public), self._join_secret)

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
