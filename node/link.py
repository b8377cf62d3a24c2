"""One life of the link: from hello to its end.

Guarantees: nothing is computed before the coordinator's signature on the manifest was checked; one task reads and one
writes; pings are answered while experts are fetched; however the link ends, its tasks and its compute thread have ended
when `run` returns, and the error says why.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from .. import __version__
from ..amounts import format_bytes
from ..disk import DiskFullError
from ..errors import TrustError, WireError
from ..models.manifest import Manifest
from ..node_states import StateChangeError, Wish
from ..protos.folkmoot.v1 import link_pb2, link_pb2_grpc
from ..protos.limits import NONCE_BYTES
from ..protos.wire_states import state_of
from ..trust.keys import Identity, SignatureError, VerifyingKey
from ..trust.statements import DIGEST_BYTES, manifest_statement, session_id, session_statement
from .download import Downloader
from .executor import Executor, Send
from .keeper import Keeper, Limits
from .outbox import Outbox
from .premises import Premises
from .receipt_folder import ReceiptFolder
from .receipt_keeper import ReceiptCounts, ReceiptKeeper
from .remote import CoordinatorLostError, NodeRefusedError, named, readable
from .replies import refused_challenge, refused_frame
from .rows import Reason, Refused
from .session import Session
from .settings import NodeSettings
from .shelf import Shelf
from .sources.coordinator import CoordinatorSource
from .spoken_state import SpokenState
from .state import StateFolder
from .store import ExpertStore
from .tasks import ended, in_thread
from .wishes import Wishes

log = logging.getLogger(__name__)

Call = grpc.aio.StreamStreamCall[link_pb2.NodeMessage, link_pb2.CoordinatorMessage]
MakeExecutor = Callable[[Session, Manifest, Send], Executor]


class LinkProtocolError(WireError):
    """The coordinator breaks the order or the form of the link's messages."""


class ManifestSignatureError(TrustError):
    """The coordinator did not sign the manifest that it names."""


@dataclass
class WorkCounts:
    """What the node has signed, over all links of this process: results, and their rows."""

    results: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Resources:
    """What a node has, whichever link it is on."""

    settings: NodeSettings
    premises: Premises
    shelf: Shelf
    status: SpokenState
    wishes: Wishes
    work: WorkCounts = field(default_factory=WorkCounts)
    receipts: ReceiptCounts = field(default_factory=ReceiptCounts)

    @property
    def identity(self) -> Identity:
        """Who the node is."""
        return self.premises.identity

    @property
    def state(self) -> StateFolder:
        """The node's state folder."""
        return self.premises.state

    @property
    def store(self) -> ExpertStore:
        """Its experts on disk."""
        return self.premises.store

    @property
    def lent_bytes(self) -> int:
        """Bytes of experts that can be held: all of them lie on disk too."""
        return min(self.settings.memory_bytes, self.settings.disk_bytes)


class Link:
    """A link over one channel to the coordinator of this key."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        coordinator_key: bytes,
        ticket: bytes,
        source: CoordinatorSource,
        resources: Resources,
        make_executor: MakeExecutor,
    ) -> None:
        self._stub = link_pb2_grpc.LinkStub(channel)
        self._coordinator_key = coordinator_key
        self._ticket = ticket
        self._source = source
        self._resources = resources
        self._make_executor = make_executor
        self._outbox = Outbox(resources.premises.uploads)
        self._executor: Executor | None = None
        self._keeper: Keeper | None = None
        self._downloader: Downloader | None = None
        self._assignment: link_pb2.Assignment | None = None
        self._leaving = False
        self.attached = False

    async def run(self) -> None:
        """Lives until the link ends; returns only after `leave`.

        Raises:
            NodeRefusedError: when the coordinator will not have this node back.
            TrustError: when the coordinator is not what it must be.
            TicketRefusedError, CoordinatorLostError: when it ends or is lost.
            WireError: when the coordinator breaks the protocol.
            DiskError: when the state folder cannot be read.
        """
        call: Call = self._stub.Attach()
        try:
            session, length = await self._attach(call)
            resources = self._resources
            resources.status.joining("attached, waiting to be told what to hold")
            if resources.wishes.wish is not Wish.SERVE:
                self.tell(resources.wishes.message)
            receipts = ReceiptKeeper(
                session, ReceiptFolder(resources.state.path), resources.receipts, self._outbox.post
            )
            await self._live(
                asyncio.create_task(self._read(call, receipts)),
                asyncio.create_task(self._write(call)),
                asyncio.create_task(self._serve(session, length, receipts)),
                asyncio.create_task(receipts.run()),
            )
        except grpc.aio.AioRpcError as error:
            if not self._leaving:
                raise named(error, "the link broke") from error
        except CoordinatorLostError:
            if not self._leaving:
                raise
        finally:
            call.cancel()
            if self._executor is not None:
                await self._executor.stop()

    @property
    def assigned(self) -> int:
        """How many experts the node was last told to hold."""
        return sum(len(part.experts) for part in self._assignment.experts) if self._assignment else 0

    @property
    def fetched_bytes(self) -> int:
        """What came over the network since the link was attached."""
        return self._downloader.traffic.fetched_bytes if self._downloader else 0

    def tell(self, message: link_pb2.NodeMessage) -> None:
        """Sends a message after those that wait."""
        self._outbox.post(message)

    async def leave(self, reason: str) -> None:
        """Says goodbye; `run` returns once the coordinator has heard it."""
        self._leaving = True
        await self._outbox.send(link_pb2.NodeMessage(leaving=link_pb2.Leaving(reason=reason)))

    async def _live(self, reading: asyncio.Task[None], *others: asyncio.Task[None]) -> None:
        tasks = {reading, *others}
        try:
            # A writer that finds the stream broken just ends: only the reader is told why.
            while not reading.done():
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            await ended(reading, *others)

    async def _attach(self, call: Call) -> tuple[Session, int]:
        """The handshake: the session, and the length of its manifest."""
        resources = self._resources
        nonce = secrets.token_bytes(NONCE_BYTES)
        hello = link_pb2.Hello(
            node_key=resources.identity.public,
            node_nonce=nonce,
            ticket=self._ticket,
            memory_bytes=resources.lent_bytes,
            threads=resources.settings.threads,
            software_version=__version__,
        )
        try:
            async with asyncio.timeout(resources.settings.connect_timeout_s):
                await call.write(link_pb2.NodeMessage(hello=hello))
                message = await self._next(call)
        except TimeoutError:
            raise CoordinatorLostError("the coordinator does not welcome this node in time") from None
        except asyncio.InvalidStateError:  # the stream was refused before it took a word
            message = await self._next(call)
        if message.WhichOneof("body") == "closing":
            raise _closed(message.closing)
        if message.WhichOneof("body") != "welcome":
            raise LinkProtocolError("the coordinator does not begin with a welcome")
        session = self._check(message.welcome, nonce)
        signature = resources.identity.sign(
            session_statement(self._coordinator_key, resources.identity.public, session.session, self._ticket)
        )
        self._outbox.post(link_pb2.NodeMessage(attached=link_pb2.Attached(session_signature=signature)))
        self.attached = True
        return session, message.welcome.manifest_length

    def _check(self, welcome: link_pb2.Welcome, nonce: bytes) -> Session:
        if len(welcome.coordinator_nonce) != NONCE_BYTES or len(welcome.manifest_digest) != DIGEST_BYTES:
            raise LinkProtocolError("the welcome's nonce or manifest digest has the wrong length")
        try:
            VerifyingKey(self._coordinator_key).verify(
                welcome.manifest_signature, manifest_statement(welcome.manifest_digest)
            )
        except SignatureError as error:
            raise ManifestSignatureError(
                f"the coordinator did not sign the manifest that it names ({error.message})",
                advice="tell the operator",
            ) from error
        session = session_id(welcome.coordinator_nonce, nonce)
        return Session.of(self._resources.identity, self._coordinator_key, session, welcome)

    async def _read(self, call: Call, receipts: ReceiptKeeper) -> None:
        while True:
            await self._outbox.room()
            message = await self._next(call)
            match message.WhichOneof("body"):
                case "frame":
                    receipts.came(message.frame.sequence)
                    self._take(message.frame)
                case "challenge":
                    self._challenge(message.challenge)
                case "receipt":
                    receipts.take(message.receipt)
                case "logged_receipt":
                    receipts.take_logged(message.logged_receipt)
                case "ping":
                    self._outbox.post(link_pb2.NodeMessage(pong=link_pb2.Pong(token=message.ping.token)))
                case "assignment":
                    self._assign(message.assignment)
                case "state_change":
                    self._follow(message.state_change)
                case "closing":
                    raise _closed(message.closing)
                case body:
                    raise LinkProtocolError(f"the coordinator sent {body or 'an empty message'} out of order")

    async def _next(self, call: Call) -> link_pb2.CoordinatorMessage:
        message = await call.read()
        if message is grpc.aio.EOF:
            raise CoordinatorLostError("the coordinator ended the link")
        if not isinstance(message, link_pb2.CoordinatorMessage):  # gRPC makes None of what cannot be parsed
            raise LinkProtocolError("the coordinator sent a message that cannot be read")
        return message

    async def _write(self, call: Call) -> None:
        try:
            while True:
                message = await self._outbox.next()
                await call.write(message)
                self._count(message)
                if message.WhichOneof("body") == "leaving":
                    await call.done_writing()
                    return
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            log.debug("nothing more can be written: %s", error)
        finally:
            self._outbox.close()

    def _count(self, message: link_pb2.NodeMessage) -> None:
        if message.WhichOneof("body") == "result":
            work, shape = self._resources.work, message.result.output.shape
            work.results += 1
            work.rows += shape[0] if shape else 0

    def _follow(self, change: link_pb2.StateChange) -> None:
        """The coordinator says where it takes the node to be; what only a newer one says is passed over."""
        state = state_of(change.state)
        if state is None:
            return
        try:
            self._resources.status.told(state, readable(change.reason))
        except StateChangeError as error:
            raise LinkProtocolError(f"the coordinator says what cannot be: {error.message}") from error
        if change.may_go:
            self._resources.wishes.may_go()

    def _take(self, frame: link_pb2.Frame) -> None:
        if self._executor is not None:
            self._executor.submit(frame)
            return
        self._outbox.post(refused_frame(frame, _not_yet()))

    def _challenge(self, challenge: link_pb2.Challenge) -> None:
        if self._executor is not None:
            self._executor.challenge(challenge)
            return
        self._outbox.post(refused_challenge(challenge, _not_yet()))

    def _assign(self, assignment: link_pb2.Assignment) -> None:
        self._assignment = assignment
        if self._keeper is not None:
            self._keeper.assign(assignment)

    async def _serve(self, session: Session, manifest_length: int, receipts: ReceiptKeeper) -> None:
        """Gets the manifest, starts the executor, and follows assignments until the link ends."""
        resources, settings = self._resources, self._resources.settings
        manifest = await self._manifest(session.manifest_digest, manifest_length)
        _warn_if_none_fits(manifest, resources.lent_bytes)
        resources.shelf.adopt(manifest.digest)
        executor = self._make_executor(session, manifest, self._outbox.post)
        receipts.follow(executor.receipts)
        executor.start()
        self._executor = executor
        self._downloader = await resources.premises.weights.downloader(
            manifest, resources.store, self._source
        )
        self._keeper = Keeper(
            resources.shelf,
            self._downloader,
            Limits(
                memory_bytes=resources.lent_bytes,
                disk_bytes=settings.disk_bytes,
                streams=settings.fetch_streams,
                report_interval_s=settings.holdings_interval_s,
                progress_interval_s=settings.progress_interval_s,
            ),
            resources.status,
            report=self._report,
            drop=executor.drop,
        )
        if self._assignment is not None:
            self._keeper.assign(self._assignment)
        await self._keeper.run()

    async def _report(self, holdings: link_pb2.Holdings) -> None:
        await self._outbox.send(link_pb2.NodeMessage(holdings=holdings))

    async def _manifest(self, digest: bytes, length: int) -> Manifest:
        state = self._resources.state
        manifest = await in_thread(state.load_manifest, digest)
        if manifest is None:
            data = await self._source.manifest(digest, length)
            manifest = await in_thread(Manifest.decode, data)
            try:
                await in_thread(state.save_manifest, digest, data)
            except DiskFullError as error:
                log.warning("the manifest is not kept: %s", error)
        log.info(
            "model %s: %d experts in %d layers", manifest.name, len(manifest.experts), len(manifest.layers)
        )
        return manifest


def _not_yet() -> Refused:
    return Refused(Reason.REASON_NOT_HELD, "the node does not have the manifest yet")


def _closed(closing: link_pb2.Closing) -> NodeRefusedError | CoordinatorLostError:
    reason = readable(closing.reason) or "without a reason"
    if closing.retry:
        return CoordinatorLostError(f"the coordinator closed the link: {reason}")
    return NodeRefusedError(
        f"the coordinator will not have this node back: {reason}", advice="ask the operator"
    )


def _warn_if_none_fits(manifest: Manifest, lent_bytes: int) -> None:
    smallest = min(manifest.expert_bytes(key) for key in manifest.experts)
    if smallest > lent_bytes:
        log.warning(
            "no expert of %s fits: the smallest takes %s and this node lends %s; start it again with more --memory",
            manifest.name,
            format_bytes(smallest),
            format_bytes(lent_bytes),
        )
