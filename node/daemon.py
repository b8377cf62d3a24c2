"""The contributor's daemon: joins, serves, and comes back whenever the coordinator does.

Guarantees: a fault that time may heal never ends the node: it waits and tries again for ever, saying why in one line; a
fault that it cannot heal (a mistyped invite, a coordinator that is another, a node that is refused) ends it with an error
that says what to do. `stop` says goodbye and leaves no task, thread, lock or expert in memory behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import replace
from typing import Any

import grpc

from ..amounts import format_bytes
from ..errors import FolkmootError, TrustError, UsageError
from ..ids import NodeId, short
from ..models.manifest import Manifest
from ..node_states import NodeState, Wish
from ..protos.folkmoot.v1 import link_pb2
from ..protos.limits import channel_options
from ..trust.invite import Invite
from ..trust.tls import TLS_NAME, check_certificate, fetch_certificate
from .backoff import Backoff
from .enrol import Enroller
from .executor import Executor, Send
from .link import Link, Resources
from .machine import WORKING_ALLOWANCE_BYTES, lendable_memory_bytes
from .premises import Premises
from .receipt_keeper import ReceiptCounts
from .remote import TicketRefusedError
from .session import Session
from .settings import NodeSettings
from .shelf import Shelf
from .sources.coordinator import CoordinatorSource
from .spoken_state import SpokenState
from .status import NodeStatus
from .tasks import abandonable, ended
from .wishes import DrainEnd, Wishes

log = logging.getLogger(__name__)

GO_PATIENCE_S = 5.0
"""How long a node that will not wait for others waits for the coordinator to hear it."""


class NodeDaemon:
    """One node: `start`, then `wait` for the end or `stop`.

    Args:
        settings: What it is told; of memory and disk, what this coordinator gets of them.
        premises: What it shares with those of other coordinators; without, it opens and closes its own.
        random_generator: Where the jitter of pauses comes from.
    """

    def __init__(
        self,
        settings: NodeSettings,
        *,
        premises: Premises | None = None,
        random_generator: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self.shelf = Shelf()
        self.wishes = Wishes(self._tell)
        self._shared = premises
        self._own: Premises | None = None
        self._relinking = asyncio.Lock()
        self.welcomed = False
        """Whether the coordinator has ever taken this node in, in the life of this process."""
        self.model_bytes: int | None = None
        """Bytes of all experts of the coordinator's model, once that is known."""
        self._backoff = Backoff(
            settings.reconnect_first_s, settings.reconnect_cap_s, random_generator or random.Random()
        )
        self._status = SpokenState()
        self._address = ""
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
        return self._status.state

    def make_executor(self, session: Session, manifest: Manifest, send: Send) -> Executor:
        """The executor of a link's life; the place to override in order to answer otherwise."""
        return Executor(
            session,
            manifest,
            self.shelf,
            send,
            threads=self.settings.threads,
            backend=self._started.premises.backend,
        )

    async def start(self) -> None:
        """Opens the state folder and begins to join; returns before the coordinator has answered.

        Raises:
            InviteError: when the invite cannot be read.
            StateError: when the state folder cannot be used, or another node uses it.
            TrustError: when the node's key file is damaged.
        """
        invite = Invite.parse(self.settings.invite)
        self._address = invite.address
        premises = self._shared
        if premises is None:
            self.settings = within_machine(self.settings)
            premises = self._own = Premises.open(self.settings)
            tell_what_is_lent(self.settings, premises)
        self._resources = Resources(self.settings, premises, self.shelf, self._status, self.wishes)
        self._living = asyncio.create_task(self._live(invite))

    async def wait(self) -> None:
        """Returns when the node was stopped.

        Raises:
            FolkmootError: what ended it.
        """
        while True:
            living = self._living
            if living is None:
                raise RuntimeError("the node was not started")
            await asyncio.wait({living})
            async with self._relinking:
                if living is self._living:
                    break
        if not living.cancelled():
            living.result()

    async def stop(self) -> None:
        """Leaves the network and ends; stopping twice, or what was never started, is harmless."""
        await self._leave("the contributor stopped it")
        self.let_go()
        if self._own is not None:
            await self._own.close()
        self._status.stopped()

    def let_go(self) -> None:
        """Frees the memory and disk of what it holds; for when its work is over."""
        self.shelf.drop(self.shelf.held)
        if self._resources is not None:
            self._resources.store.release(self.shelf)

    async def lend(self, memory_bytes: int, disk_bytes: int) -> None:
        """Lends other amounts from now on: leaves, and attaches again with what it holds, as far as that still fits.

        Not while it drains: that would end as if others had not taken over.
        """
        async with self._relinking:
            self.settings = self.settings.model_copy(
                update={"memory_bytes": memory_bytes, "disk_bytes": disk_bytes}
            )
            if self._resources is None:
                return
            self._resources = replace(self._resources, settings=self.settings)
            if self._living is not None and not self._living.done():
                await self._leave("it lends another amount of memory")
                self.shelf.trim(self._resources.lent_bytes)
                self._living = asyncio.create_task(self._live(Invite.parse(self.settings.invite)))

    async def _leave(self, reason: str) -> None:
        """Says goodbye if there is a link, and ends all that lives."""
        if self._living is None:
            return
        if self._link is not None and self._link.attached and not self._living.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.leave_timeout_s):
                    await self._link.leave(reason)
                    await asyncio.wait({self._living})
        await ended(self._living)

    def status(self) -> NodeStatus:
        """What there is to say of the node right now. It has an identity once it is started."""
        resources, link = self._resources, self._link
        return NodeStatus(
            state=self._status.state,
            reason=self._status.reason,
            since_unix_s=self._status.since_unix_s,
            coordinator=self._address,
            name=self.settings.called(resources.identity.node_id) if resources else self.settings.name,
            node_id=resources.identity.node_id if resources else "",
            connected=link is not None and link.attached,
            wish=self.wishes.wish.value,
            experts_held=len(self.shelf.held),
            experts_assigned=link.assigned if link else 0,
            bytes_held=self.shelf.held_bytes,
            memory_bytes=resources.lent_bytes if resources else self.settings.memory_bytes,
            bytes_fetched=link.fetched_bytes if link else 0,
            rows_done=resources.work.rows if resources else 0,
            results_signed=resources.work.results if resources else 0,
        )

    def pause(self, reason: str = "the contributor paused it") -> None:
        """Asks for no more work, now and on every link to come, until `resume`; what is held is kept. Returns at once: the state
        changes when the coordinator has heard it."""
        self.wishes.pause(reason)

    def resume(self) -> None:
        """Asks for work again, after `pause` or instead of a `drain`. Returns at once."""
        self.wishes.serve()

    async def drain(
        self, reason: str = "the contributor drains it", *, timeout_s: float | None = None
    ) -> DrainEnd:
        """Serves on until other nodes have what this one holds; then it may be stopped, and nothing is lost.

        Called again while it waits, or once `timeout_s` is over, it waits no longer: both calls return, though experts may be
        left without a host. Returns as well when `resume` or `pause` takes it back, or the node ends.
        """
        again = self.wishes.wish is Wish.DRAIN
        ending = self.wishes.drain(reason)
        others: list[asyncio.Future[Any]] = [] if self._living is None else [self._living]
        if not again:
            await asyncio.wait([ending, *others], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            self.wishes.go_at_once()
            await asyncio.wait([ending, *others], timeout=GO_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            self.wishes.gone(ending)
        return ending.result()

    def _make_executor(self, session: Session, manifest: Manifest, send: Send) -> Executor:
        self.welcomed = True
        self.model_bytes = sum(manifest.expert_bytes(key) for key in manifest.experts)
        return self.make_executor(session, manifest, send)

    @property
    def receipts(self) -> ReceiptCounts:
        """What receipts have come to."""
        return self._started.receipts

    def _tell(self, message: link_pb2.NodeMessage) -> bool:
        """Sends a message on the present link; whether there is one."""
        if self._link is None or not self._link.attached:
            return False
        self._link.tell(message)
        return True

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
                self._status.lost(f"{error}; trying again in {pause_s:.1f} s")
            await asyncio.sleep(pause_s)

    async def _join(self, invite: Invite) -> None:
        """One try: from the certificate to the end of the link."""
        settings, resources = self.settings, self._started
        self._status.joining(invite.address)
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
                source = CoordinatorSource(bulk, enroller, stall_s=settings.fetch_stall_s)
                await self._serve(
                    Link(channel, coordinator_key, ticket, source, resources, self._make_executor)
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


def within_machine(settings: NodeSettings) -> NodeSettings:
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


def tell_what_is_lent(settings: NodeSettings, premises: Premises) -> None:
    """Says in the log what the contributor lends, and with what it is computed."""
    log.info(
        "node %s lends %s of memory for experts (and takes about %s to work with) and %d threads; its state is in %s",
        short(premises.identity.node_id),
        format_bytes(min(settings.memory_bytes, settings.disk_bytes)),
        format_bytes(WORKING_ALLOWANCE_BYTES),
        settings.threads,
        settings.state_dir,
    )
    log.info("experts are computed by %s", premises.backend.describe())
