"""A small real coordinator that tests script: gRPC over pinned TLS, enrolment, link and expert blobs.

Guarantees: it checks of a node what a coordinator must check (proofs, ticket, session signature) and notes the rest; all
that it does wrong, a test told it to do. Nothing in it comes from `folkmoot.coordinator`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from folkmoot.ids import ExpertKey
from folkmoot.protos.folkmoot.v1 import (
    enrolment_pb2,
    enrolment_pb2_grpc,
    experts_pb2,
    experts_pb2_grpc,
    link_pb2,
)
from folkmoot.protos.limits import CHUNK_BYTES, server_options
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.scripted_link import PATIENCE_S, ScriptedLink
from folkmoot.trust.enrolment import EnrolmentProof, NotInvitedError, check_proof
from folkmoot.trust.invite import Invite
from folkmoot.trust.keys import Identity, VerifyingKey, fingerprint
from folkmoot.trust.statements import (
    enrolment_statement,
    manifest_statement,
    session_id,
    session_statement,
)
from folkmoot.trust.tickets import TicketError, check_ticket, issue_ticket
from folkmoot.trust.tls import TlsIdentity


@dataclass
class Script:
    """What the coordinator does otherwise than it should.

    Attributes:
        ticket_s: How long tickets are good.
        break_after: Bytes of one fetch after which the stream breaks; consumed by the first that reaches it.
        wrong: Experts whose bytes are sent wrong.
        change_welcome: Called with each welcome before it is sent.
        change_manifest: Makes the manifest's bytes that are sent of those that should be.
        before_manifest: Awaited before the manifest is sent.
        challenge_key: Whom the coordinator says it is when a node enrols.
        clock_ahead_s: How far its clock is ahead.
        closing: What is sent instead of a welcome.
        manifest_signer: Who signs the manifest instead of the coordinator.
        max_rows_in_flight, max_rows_per_frame: What the welcome says.
        instead: A chunk that is sent instead of an expert.
        before_chunk: Awaited before each chunk of an expert.
    """

    ticket_s: float = 3600.0
    break_after: int | None = None
    wrong: set[ExpertKey] = field(default_factory=set)
    instead: dict[ExpertKey, experts_pb2.Chunk] = field(default_factory=dict)
    change_welcome: Callable[[link_pb2.Welcome], None] = lambda welcome: None
    change_manifest: Callable[[bytes], bytes] = bytes
    before_manifest: asyncio.Event | None = None
    challenge_key: bytes = b""
    clock_ahead_s: float = 0.0
    closing: link_pb2.Closing | None = None
    manifest_signer: Identity | None = None
    max_rows_in_flight: int = 64
    max_rows_per_frame: int = 16
    before_chunk: Callable[[ExpertKey, int], Any] | None = None


class ScriptedCoordinator(enrolment_pb2_grpc.EnrolmentServicer, experts_pb2_grpc.ExpertsServicer):
    """The server; `invite` is good once it runs."""

    def __init__(self, experts: BareExperts, folder: Path, script: Script | None = None) -> None:
        self.experts = experts
        self.script = script or Script()
        self.identity = Identity.load_or_create(folder / "identity.key")
        self.tls = TlsIdentity.load_or_create(folder, self.identity)
        self.join_secret = secrets.token_bytes(16)
        self.port = 0
        self.enrolled: list[str] = []
        self.manifests_served = 0
        self.fetches: list[tuple[ExpertKey, int]] = []
        self.bytes_served = 0
        self.void_before = 0.0
        self.refused_tickets: list[bytes] = []
        self._links: asyncio.Queue[ScriptedLink] = asyncio.Queue()
        self._server: grpc.aio.Server | None = None
        self._nonces: set[bytes] = set()

    @property
    def invite(self) -> str:
        """What to give to a node."""
        return Invite("127.0.0.1", self.port, fingerprint(self.identity.public), self.join_secret).encode()

    async def start(self) -> None:
        """Listens, on the same port as before if it did."""
        self._server = grpc.aio.server(options=server_options())
        enrolment_pb2_grpc.add_EnrolmentServicer_to_server(self, self._server)
        self._server.add_generic_rpc_handlers((self._link_handler(),))
        experts_pb2_grpc.add_ExpertsServicer_to_server(self, self._server)
        credentials = grpc.ssl_server_credentials([(self.tls.key_pem, self.tls.certificate_pem)])
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self._server.start()

    def _link_handler(self) -> grpc.GenericRpcHandler:
        """The Link service, but one that also sends bytes that are no message."""
        method = grpc.stream_stream_rpc_method_handler(
            self.attach,
            request_deserializer=link_pb2.NodeMessage.FromString,
            response_serializer=lambda message: (
                message if isinstance(message, bytes) else message.SerializeToString()
            ),
        )
        return grpc.method_handlers_generic_handler("folkmoot.v1.Link", {"Attach": method})

    async def stop(self) -> None:
        """Goes away without a word."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def link(self) -> ScriptedLink:
        """The next node that attaches."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._links.get()

    async def Challenge(
        self, request: enrolment_pb2.ChallengeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> enrolment_pb2.ChallengeReply:
        nonce = secrets.token_bytes(32)
        self._nonces.add(nonce)
        key = self.script.challenge_key or self.identity.public
        return enrolment_pb2.ChallengeReply(
            coordinator_key=key,
            coordinator_nonce=nonce,
            unix_time_ms=int((time.time() + self.script.clock_ahead_s) * 1000),
        )

    async def Enrol(
        self, request: enrolment_pb2.EnrolRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> enrolment_pb2.EnrolReply:
        self._nonces.remove(request.coordinator_nonce)
        statement = enrolment_statement(
            self.identity.public,
            request.node_key,
            request.coordinator_nonce,
            request.node_nonce,
            request.name,
            request.software_version,
        )
        proof = EnrolmentProof(request.invite_proof, request.possession_proof)
        try:
            check_proof(request.node_key, self.join_secret, statement, proof)
        except NotInvitedError as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, error.message)
        self.enrolled.append(request.name)
        expires = int(time.time() + self.script.ticket_s)
        ticket = issue_ticket(self.identity, request.node_key, expires)
        return enrolment_pb2.EnrolReply(ticket=ticket, expires_unix_s=expires)

    async def attach(self, requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """One link, from hello to its end."""
        hello = (await context.read()).hello
        await self._admit(hello.ticket, hello.node_key, context)
        nonce = secrets.token_bytes(32)
        digest = self.experts.manifest.digest
        signer = self.script.manifest_signer or self.identity
        if self.script.closing is not None:
            await context.write(link_pb2.CoordinatorMessage(closing=self.script.closing))
            return
        welcome = link_pb2.Welcome(
            coordinator_nonce=nonce,
            manifest_digest=digest,
            manifest_signature=signer.sign(manifest_statement(digest)),
            manifest_length=len(self.experts.manifest.encoded),
            max_rows_in_flight=self.script.max_rows_in_flight,
            max_rows_per_frame=self.script.max_rows_per_frame,
        )
        self.script.change_welcome(welcome)
        await context.write(link_pb2.CoordinatorMessage(welcome=welcome))
        message = await context.read()
        if message is grpc.aio.EOF:
            return
        session = session_id(nonce, hello.node_nonce)
        VerifyingKey(hello.node_key).verify(
            message.attached.session_signature,
            session_statement(self.identity.public, hello.node_key, session, hello.ticket),
        )
        link = ScriptedLink(hello, session, self)
        self._links.put_nowait(link)
        await link.serve(context)

    async def Manifest(
        self, request: experts_pb2.ManifestRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[experts_pb2.Chunk]:
        self.manifests_served += 1
        if self.script.before_manifest is not None:
            await self.script.before_manifest.wait()
        data = self.script.change_manifest(self.experts.manifest.encoded)
        for offset in range(0, len(data), CHUNK_BYTES):
            yield experts_pb2.Chunk(offset=offset, data=data[offset : offset + CHUNK_BYTES])

    async def Fetch(
        self, request: experts_pb2.FetchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[experts_pb2.Chunk]:
        key = ExpertKey(request.layer, request.expert)
        await self._admit(request.ticket, request.ticket[:32], context)
        self.fetches.append((key, request.offset))
        if key in self.script.instead:
            yield self.script.instead[key]
            return
        data = self.experts.blobs[key]
        if key in self.script.wrong:
            data = bytes(len(data))
        piece = 1024
        for offset in range(request.offset, len(data), piece):
            if self.script.before_chunk is not None:
                await self.script.before_chunk(key, offset)
            if self.script.break_after is not None and offset - request.offset >= self.script.break_after:
                self.script.break_after = None
                await context.abort(grpc.StatusCode.UNAVAILABLE, "torn")
            part = data[offset : offset + piece]
            self.bytes_served += len(part)
            yield experts_pb2.Chunk(offset=offset, data=part)

    async def _admit(
        self, ticket: bytes, node_key: bytes, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        try:
            expires = check_ticket(self.identity.public, ticket, node_key, time.time())
            if expires < self.void_before:
                raise TicketError("the ticket was withdrawn")
        except TicketError as error:
            self.refused_tickets.append(ticket)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.message)
