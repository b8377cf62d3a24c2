"""The contributor's daemon: joins, serves, and comes back whenever the coordinator does.

Guarantees: a fault that time may heal never ends the node: it waits and tries again for ever, saying why in one line; a
fault that it cannot heal (a mistyped invite, a coordinator that is another, a node that is refused) ends it with an error
that says what to do. `stop` says goodbye and leaves no task, thread or lock behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time

import grpc

from ..amounts import format_bytes
from ..errors import FolkmootError, TrustError, UsageError
from ..ids import NodeId, short
from ..kernels.backend import choose_backend
from ..models.manifest import Manifest
from ..object_memory import settle
from ..open_files import allow_many_files
from ..protos.limits import channel_options
from ..trust.invite import Invite
from ..trust.tls import TLS_NAME, check_certificate, fetch_certificate
from .backoff import Backoff
from .enrol import Enroller
from .executor import Executor, Send
from .link import Link, Resources
from .machine import WORKING_ALLOWANCE_BYTES, lendable_memory_bytes
from .progress import NodeState, Status
from .receipt_keeper import ReceiptCounts
from .remote import TicketRefusedError
from .session import Session
from .settings import NodeSettings
from .shelf import Shelf
from .source import ExpertSource
from .state import StateFolder
from .store import ExpertStore
from .tasks import abandonable, ended

log = logging.getLogger(__name__)


class NodeDaemon:
    """One node: `start`, then `wait` for the end or `stop`.

    Args:
        settings: What it is told.
        random_generator: Where the jitter of pauses comes from.
    """

    def __init__(self, settings: NodeSettings, *, random_generator: random.Random | None = None) -> None:
        self.settings = settings
        self.shelf = Shelf()
        self.status = Status()
        self.backend = choose_backend()
        self._backoff = Backoff(
            settings.reconnect_first_s, settings.reconnect_cap_s, random_generator or random.Random()
        )
        self._resources: Resources | None = None
        self._ticket = b""
        self._link: Link | None = None
        self._living: asyncio.Task[None] | None = None

    @property
    def node_id(self) -> NodeId:
        """Who the node is; known once it is started."""
        return self._started.identity.node_id

    @property
    def state(self) -> NodeState:
        """Where it is in its life."""
        return self.status.state

    def make_executor(self, session: Session, manifest: Manifest, send: Send) -> Executor:
        """The executor of a link's life; the place to override in order to answer otherwise."""
        return Executor(
            session, manifest, self.shelf, send, threads=self.settings.threads, backend=self.backend
        )

    async def start(self) -> None:
        """Opens the state folder and begins to join; returns before the coordinator has answered.

        Raises:
            InviteError: when the invite cannot be read.
            StateError: when the state folder cannot be used, or another node uses it.
            TrustError: when the node's key file is damaged.
        """
        invite = Invite.parse(self.settings.invite)
        self.settings = _within_machine(self.settings)
        state = StateFolder(self.settings.state_dir)
        try:
            identity = state.identity()
        except FolkmootError:
            state.close()
            raise
        self._resources = Resources(
            self.settings, identity, state, ExpertStore(state.experts), self.shelf, self.status
        )
        log.info(
            "node %s lends %s of memory for experts (and takes about %s to work with) and %d threads; its state is in %s",
            short(identity.node_id),
            format_bytes(self._resources.lent_bytes),
            format_bytes(WORKING_ALLOWANCE_BYTES),
            self.settings.threads,
            self.settings.state_dir,
        )
        log.info("experts are computed by %s", self.backend.describe())
        self._living = asyncio.create_task(self._live(invite))

    async def wait(self) -> None:
        """Returns when the node was stopped.

        Raises:
            FolkmootError: what ended it.
        """
        if self._living is None:
            raise RuntimeError("the node was not started")
        await asyncio.wait({self._living})
        if not self._living.cancelled():
            self._living.result()

    async def stop(self) -> None:
        """Leaves the network and ends; stopping twice, or what was never started, is harmless."""
        if self._living is not None:
            if self._link is not None and self._link.attached and not self._living.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.settings.leave_timeout_s):
                        await self._link.leave("the contributor stopped it")
                        await asyncio.wait({self._living})
            await ended(self._living)
        if self._resources is not None:
            self._resources.state.close()
        self.status.change(NodeState.STOPPED)

    @property
    def receipts(self) -> ReceiptCounts:
        """What receipts have come to."""
        return self._started.receipts

    @property
    def _started(self) -> Resources:
        if self._resources is None:
            raise RuntimeError("the node was not started")
        return self._resources

    async def _live(self, invite: Invite) -> None:
        while True:
            try:
                await self._join(invite)
                return
            except (UsageError, TrustError):
                raise
            except FolkmootError as error:
                if isinstance(error, TicketRefusedError):
                    self._ticket = b""
                pause_s = self._backoff.pause_s()
                self.status.change(NodeState.LOST, f"{error}; trying again in {pause_s:.1f} s")
            await asyncio.sleep(pause_s)

    async def _join(self, invite: Invite) -> None:
        """One try: from the certificate to the end of the link."""
        settings, resources = self.settings, self._started
        self.status.change(NodeState.JOINING, invite.address)
        certificate = await abandonable(
            fetch_certificate, invite.host, invite.port, settings.connect_timeout_s
        )
        coordinator_key = check_certificate(certificate, invite.fingerprint)
        credentials = grpc.ssl_channel_credentials(certificate)
        options = channel_options(TLS_NAME)
        async with (
            grpc.aio.secure_channel(invite.address, credentials, options=options) as channel,
            grpc.aio.secure_channel(invite.address, credentials, options=options) as bulk,
        ):
            enroller = Enroller(
                channel,
                invite=invite,
                identity=resources.identity,
                coordinator_key=coordinator_key,
                name=settings.shown(resources.identity.node_id),
                timeout_s=settings.connect_timeout_s,
                ticket=self._ticket,
            )
            try:
                ticket = await enroller.ticket()
                source = ExpertSource(bulk, enroller, stall_s=settings.fetch_stall_s)
                await self._serve(
                    Link(channel, coordinator_key, ticket, source, resources, self.make_executor)
                )
            finally:
                self._ticket = enroller.last

    async def _serve(self, link: Link) -> None:
        self._link, began_s = link, time.monotonic()
        try:
            await link.run()
        finally:
            self._link = None
            if link.attached:
                self._backoff.lasted(time.monotonic() - began_s)


def _within_machine(settings: NodeSettings) -> NodeSettings:
    """The settings, lending no more memory than there is."""
    within = settings.within(lendable_memory_bytes())
    if within is not settings:
        log.warning(
            "this machine has no %s of memory for experts to lend: the node lends %s, what is free now less about %s to "
            "work with; stop other programs first to lend more",
            format_bytes(settings.memory_bytes),
            format_bytes(within.memory_bytes),
            format_bytes(WORKING_ALLOWANCE_BYTES),
        )
    return within


async def run(settings: NodeSettings) -> None:
    """Runs a node until it is cancelled or something ends it; then it leaves the network in order.

    Raises:
        FolkmootError: what ended it.
    """
    allow_many_files()
    daemon = NodeDaemon(settings)
    try:
        await daemon.start()
        settle()
        await daemon.wait()
    finally:
        await daemon.stop()
