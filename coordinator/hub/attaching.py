"""The Link service: the handshake, then one reader and one writer for as long as the link lives.

Guarantees: nothing of a node is acted upon before its ticket is good, its key has signed this very session, and the
coordinator's side of the session id is new. Whatever a node sends, the link ends with a reason and the process goes on. A
ticket that is not good (any more) ends the call with UNAUTHENTICATED, which tells a node to enrol again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from ...errors import FolkmootError, WireError
from ...ids import ExpertKey, NodeId, short
from ...models.manifest import Manifest
from ...node_states import Wish
from ...protos.folkmoot.v1 import link_pb2
from ...protos.folkmoot.v1.link_pb2_grpc import LinkServicer
from ...protos.limits import MAX_REASON, NONCE_BYTES
from ...protos.wire_states import wish_of
from ...trust.keys import Identity, SignatureError, VerifyingKey, WeakKeyError
from ...trust.statements import manifest_statement, session_id, session_statement
from ...trust.tickets import TicketError, check_ticket
from ..dispatch.counters import DispatchCounters
from .enrolment import clean_name
from .link import Link, OnFault
from .roster import Member, Roster
from .settings import HubSettings

log = logging.getLogger(__name__)

MOST_MEMORY_BYTES = 1 << 62
"""No machine has more, and what keeps the number counts no further than twice that."""
LAST_WORDS_S = 2.0
"""How long a link that was cut may take to say why."""


class ProtocolError(WireError):
    """A node sent a message that does not belong where it came."""


class Report:
    """What a node says it holds, checked against the manifest."""

    def __init__(self, holdings: link_pb2.Holdings, manifest: Manifest) -> None:
        """Raises ProtocolError when it lists an expert that does not exist, or more than exist."""
        self.epoch = holdings.epoch
        self.ready = _experts(holdings.ready, manifest)
        self.refused = _experts(holdings.refused, manifest)
        self.reason = readable(holdings.reason)
        self.bytes_fetched = holdings.bytes_fetched
        self.bytes_held = holdings.bytes_held


class Reception(Protocol):
    """Whoever is told of links that come, report and go."""

    def refusal(self, node: NodeId) -> str | None:
        """Why the node may not come back; None when it may."""
        ...

    def on_fault(self, link: Link, error: FolkmootError, reason: str) -> None:
        """A result of the node was rejected, and the node is to blame."""
        ...

    def joined(self, link: Link, member: Member, memory_bytes: int) -> None:
        """The handshake is done."""
        ...

    def reported(self, link: Link, report: Report) -> None:
        """The node said what it holds."""
        ...

    def wished(self, link: Link, wish: Wish, reason: str, *, at_once: bool) -> None:
        """The node's contributor wants something of it."""
        ...

    def leaving(self, link: Link, reason: str) -> None:
        """The node goes on purpose."""
        ...

    def left(self, link: Link) -> None:
        """The link has ended."""
        ...

    def acknowledged(self, link: Link, message: link_pb2.Acknowledgement) -> None:
        """The node agrees with a receipt."""
        ...


class Attachments(LinkServicer):
    """Serves links."""

    def __init__(
        self,
        identity: Identity,
        manifest: Manifest,
        max_rows_per_frame: int,
        settings: HubSettings,
        roster: Roster,
        counters: DispatchCounters,
        reception: Reception,
    ) -> None:
        self._identity = identity
        self._manifest = manifest
        self._manifest_signature = identity.sign(manifest_statement(manifest.digest))
        self._max_rows_per_frame = max_rows_per_frame
        self._settings = settings
        self._roster = roster
        self._counters = counters
        self._reception = reception

    # A coroutine that reads and writes through the context: the generated stubs know only the generator form.
    async def Attach(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        """One link, from Hello to its end."""
        link = await self._shake_hands(context)
        reader = asyncio.create_task(self._read(link, context))
        writer = asyncio.create_task(link.write(context))
        closed = asyncio.create_task(link.closed.wait())
        try:
            await asyncio.wait({reader, writer, closed}, return_when=asyncio.FIRST_COMPLETED)
            if link.closed.is_set():
                await asyncio.wait({writer}, timeout=LAST_WORDS_S)
        finally:
            link.close("the stream ended")
            self._reception.left(link)
            for task in (reader, writer, closed):
                task.cancel()
            ends = await asyncio.gather(reader, writer, closed, return_exceptions=True)
            for fault in (end for end in ends if isinstance(end, Exception)):
                # gRPC's own error only says that the node was gone before it was known here.
                if not isinstance(fault, grpc.aio.InternalError):
                    log.error("a fault ended the link of node %s", short(link.node), exc_info=fault)

    async def _shake_hands(self, context: Any) -> Link:
        hello = await self._expect(context, "hello")
        try:
            key = VerifyingKey(hello.node_key)
            if len(hello.node_nonce) != NONCE_BYTES:
                raise ProtocolError(f"a nonce has {NONCE_BYTES} bytes, not {len(hello.node_nonce)}")
            if hello.memory_bytes > MOST_MEMORY_BYTES:
                raise ProtocolError(f"nobody can lend {hello.memory_bytes} bytes of memory")
            check_ticket(self._identity.public, hello.ticket, key.raw, time.time())
        except (WeakKeyError, ProtocolError) as error:
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, error)
        except TicketError as error:
            await _abort(context, grpc.StatusCode.UNAUTHENTICATED, error)
        if (refusal := self._reception.refusal(key.node_id)) is not None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)
        member = self._roster.find(key.node_id)
        if member is None:
            # This process has not met the node, so it does not know its name: the ticket is from an earlier life.
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the coordinator was restarted: enrol again")
            raise AssertionError("abort raises")
        coordinator_nonce = secrets.token_bytes(NONCE_BYTES)
        welcome = link_pb2.Welcome(
            coordinator_nonce=coordinator_nonce,
            manifest_digest=self._manifest.digest,
            manifest_signature=self._manifest_signature,
            manifest_length=len(self._manifest.encoded),
            max_rows_in_flight=self._settings.max_rows_in_flight,
            max_rows_per_frame=self._max_rows_per_frame,
        )
        await context.write(link_pb2.CoordinatorMessage(welcome=welcome))
        attached = await self._expect(context, "attached")
        session = session_id(coordinator_nonce, hello.node_nonce)
        statement = session_statement(self._identity.public, key.raw, session, hello.ticket)
        try:
            key.verify(attached.session_signature, statement)
        except SignatureError as error:
            log.warning("node %s did not sign its session: %s", short(key.node_id), error)
            await _abort(context, grpc.StatusCode.UNAUTHENTICATED, error)
        on_fault: OnFault = self._reception.on_fault
        link = Link(
            key,
            session,
            self._settings,
            self._counters,
            member.record,
            on_fault,
            clean_name(hello.software_version),
        )
        log.info(
            "node %s (%s) attached: %d bytes lent, %d threads, software %r",
            short(link.node),
            member.name,
            hello.memory_bytes,
            hello.threads,
            link.software_version,
        )
        self._reception.joined(link, member, hello.memory_bytes)
        return link

    async def _expect(self, context: Any, kind: str) -> Any:
        """The body of the next message, which must be of this kind and come in time."""
        try:
            message = await asyncio.wait_for(context.read(), self._settings.handshake_s)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no {kind} within the handshake's time")
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"what should be {kind} cannot be read")
        if message is grpc.aio.EOF or message.WhichOneof("body") != kind:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the link must go on with {kind}")
        return getattr(message, kind)

    async def _read(self, link: Link, context: Any) -> None:
        """Reads until the node stops, or sends what it must not: the one reader."""
        try:
            while (message := await context.read()) is not grpc.aio.EOF:
                link.heard()
                self._handle(link, message)
            link.close("the node closed its stream")
        except (ProtocolError, DecodeError) as error:
            log.warning("node %s broke the wire contract: %s", short(link.node), error)
            link.cut(f"broke the wire contract: {error}", retry=True)

    def _handle(self, link: Link, message: link_pb2.NodeMessage) -> None:
        match message.WhichOneof("body"):
            case "result":
                link.answered(message.result)
            case "refusal":
                link.refused(message.refusal)
            case "opening":
                link.opened(message.opening)
            case "acknowledgement":
                self._reception.acknowledged(link, message.acknowledgement)
            case "pong":
                link.ponged(message.pong.token)
            case "holdings":
                self._reception.reported(link, Report(message.holdings, self._manifest))
            case "wish":
                wish = wish_of(message.wish.kind)
                if wish is None:
                    raise ProtocolError(f"unknown wish {message.wish.kind}")
                reason = readable(message.wish.reason)
                self._reception.wished(link, wish, reason, at_once=message.wish.at_once)
            case "leaving":
                self._reception.leaving(link, readable(message.leaving.reason))
            case kind:
                raise ProtocolError(f"unexpected message: {kind or 'empty'}")


def readable(text: str) -> str:
    """A node's free text as one bounded line."""
    return " ".join(text[:MAX_REASON].split())


async def _abort(context: Any, status: grpc.StatusCode, error: FolkmootError) -> None:
    await context.abort(status, str(error))


def _experts(ranges: Any, manifest: Manifest) -> frozenset[ExpertKey]:
    if sum(len(part.experts) for part in ranges) > len(manifest.experts):
        raise ProtocolError("more experts are listed than the model has")
    keys = frozenset(ExpertKey(part.layer, expert) for part in ranges for expert in part.experts)
    unknown = next((key for key in keys if key not in manifest.experts), None)
    if unknown is not None:
        raise ProtocolError(f"the model has no {unknown}")
    return keys
