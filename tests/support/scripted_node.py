"""A node that speaks the real wire and does what a test tells it to, misbehaviour above all.

Guarantees: without a fault it is an honest node whose answers verify; with one, everything but the fault is honest, so
what a test sees is the fault's doing. It holds whatever it is told to hold, without downloading.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from enum import Enum, auto
from typing import Any

import grpc
import torch

from folkmoot.ids import ExpertKey, NodeId
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.formats import DTYPES
from folkmoot.node_states import Wish
from folkmoot.protos.codec import encode_tensor, raw_bytes, wire_dtype
from folkmoot.protos.folkmoot.v1 import enrolment_pb2, link_pb2
from folkmoot.protos.folkmoot.v1.enrolment_pb2_grpc import EnrolmentStub
from folkmoot.protos.folkmoot.v1.link_pb2_grpc import LinkStub
from folkmoot.protos.limits import channel_options
from folkmoot.protos.wire_states import wire_wish
from folkmoot.trust.enrolment import prove
from folkmoot.trust.invite import Invite
from folkmoot.trust.keys import Identity
from folkmoot.trust.statements import (
    ResultStatement,
    TaskStatement,
    enrolment_statement,
    routing_digest,
    session_id,
    session_statement,
    tensor_digest,
)
from folkmoot.trust.tls import TLS_NAME, check_certificate, fetch_certificate

from .memory_experts import MemoryExperts


class Fault(Enum):
    """One way of being a bad node."""

    OTHER_KEY = auto()
    """Signs with a key that is not its own."""
    REPLAY = auto()
    """Gives its first answer, signature included, to every later frame."""
    OTHER_LAYER = auto()
    """Computes and signs as if the frame were of another layer."""
    NOT_A_NUMBER = auto()
    INFINITE = auto()
    OVERFLOWING = auto()
    WRONG_SHAPE = auto()
    WRONG_RANK = auto()
    WRONG_DTYPE = auto()
    HUGE_LENGTH = auto()
    """States a length of 4 GB."""
    SHORT_DATA = auto()
    HUGE_SHAPE = auto()
    WRONG = auto()
    """Answers something else, well signed."""
    NO_SIGNATURE = auto()
    CHANGED_AFTER_SIGNING = auto()
    SILENT = auto()
    """Answers pings and no frame."""
    OVERLOADED = auto()
    NOT_HELD = auto()
    TWICE = auto()
    """Sends each answer twice."""
    UNASKED = auto()
    """Answers a frame that was never sent."""
    HANGS_UP = auto()
    """Ends its stream when a frame comes."""
    UNREADABLE = auto()
    """Sends an empty message instead of the answer."""


class ScriptedNode:
    """One node, in this process, on the test's event loop."""

    def __init__(
        self,
        invite: Invite,
        model: MemoryExperts,
        *,
        fault: Fault | None = None,
        identity: Identity | None = None,
        memory_bytes: int = 1 << 30,
        name: str = "scripted",
        reports_ready: bool = True,
    ) -> None:
        self.invite = invite
        self.model = model
        self.fault = fault
        self.identity = identity or Identity.generate()
        self.node: NodeId = self.identity.verifying_key.node_id
        self.memory_bytes = memory_bytes
        self.name = name
        self.reports_ready = reports_ready
        self.ticket = b""
        self.coordinator = b""
        self.session = b""
        self.assigned: list[ExpertKey] = []
        self.ready: set[ExpertKey] = set()
        self.epoch = 0
        self.frames: list[link_pb2.Frame] = []
        self.closing: link_pb2.Closing | None = None
        self.told: list[link_pb2.StateChange] = []
        self.paused = asyncio.Event()
        self.paused.set()
        self._first_answer: link_pb2.Result | None = None
        self._channel: grpc.aio.Channel | None = None
        self._call: Any = None
        self._writing = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None

    async def channel(self) -> grpc.aio.Channel:
        """A channel that is pinned to the coordinator of the invite."""
        if self._channel is None:
            pem = await asyncio.to_thread(fetch_certificate, self.invite.host, self.invite.port, 5.0)
            self.coordinator = check_certificate(pem, self.invite.fingerprint)
            self._channel = grpc.aio.secure_channel(
                self.invite.address, grpc.ssl_channel_credentials(pem), options=channel_options(TLS_NAME)
            )
        return self._channel

    async def enrol(self) -> enrolment_pb2.EnrolReply:
        """Gets a ticket."""
        stub = EnrolmentStub(await self.channel())
        nonce = secrets.token_bytes(32)
        challenge = await stub.Challenge(
            enrolment_pb2.ChallengeRequest(node_key=self.identity.public, node_nonce=nonce)
        )
        reply = await stub.Enrol(self.enrol_request(nonce, challenge.coordinator_nonce))
        self.ticket = reply.ticket
        return reply

    def enrol_request(self, node_nonce: bytes, coordinator_nonce: bytes) -> enrolment_pb2.EnrolRequest:
        """The second half of enrolment, as an honest node sends it."""
        statement = enrolment_statement(
            self.coordinator, self.identity.public, coordinator_nonce, node_nonce, self.name, "test"
        )
        proof = prove(self.identity, self.invite.join_secret, statement)
        return enrolment_pb2.EnrolRequest(
            node_key=self.identity.public,
            node_nonce=node_nonce,
            coordinator_nonce=coordinator_nonce,
            name=self.name,
            invite_proof=proof.invite_proof,
            possession_proof=proof.possession_proof,
            software_version="test",
        )

    async def join(self) -> ScriptedNode:
        """Enrols if need be, attaches, and serves in the background; raises AioRpcError when it is not let in."""
        if not self.ticket:
            await self.enrol()
        self._call = LinkStub(await self.channel()).Attach()
        nonce = secrets.token_bytes(32)
        await self._call.write(
            link_pb2.NodeMessage(
                hello=link_pb2.Hello(
                    node_key=self.identity.public,
                    node_nonce=nonce,
                    ticket=self.ticket,
                    memory_bytes=self.memory_bytes,
                    threads=1,
                    software_version="test",
                )
            )
        )
        message = await self._call.read()
        self.session = session_id(message.welcome.coordinator_nonce, nonce)
        statement = session_statement(self.coordinator, self.identity.public, self.session, self.ticket)
        attached = link_pb2.Attached(session_signature=self.identity.sign(statement))
        await self._call.write(link_pb2.NodeMessage(attached=attached))
        self._reader = asyncio.create_task(self._serve())
        return self

    async def leave(self) -> None:
        """Ends the link without a word, as a process that is killed does."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._call is not None:
            self._call.cancel()
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def send(self, message: link_pb2.NodeMessage) -> None:
        """Sends anything."""
        async with self._writing:  # a call takes one message at a time
            await self._call.write(message)

    async def wish(self, wish: Wish, reason: str = "as scripted", *, at_once: bool = False) -> None:
        """Says what its contributor wants."""
        message = link_pb2.Wish(kind=wire_wish(wish), reason=reason, at_once=at_once)
        await self.send(link_pb2.NodeMessage(wish=message))

    @property
    def may_go(self) -> bool:
        """Whether the coordinator said last that it may go."""
        return bool(self.told) and self.told[-1].may_go

    async def report(self) -> None:
        """Says what is ready."""
        by_layer: dict[int, list[int]] = {}
        for key in sorted(self.ready):
            by_layer.setdefault(key.layer, []).append(key.expert)
        ranges = [link_pb2.ExpertRange(layer=layer, experts=experts) for layer, experts in by_layer.items()]
        await self.send(
            link_pb2.NodeMessage(holdings=link_pb2.Holdings(epoch=self.epoch, ready=ranges, bytes_held=1))
        )

    async def _reply(self, message: link_pb2.NodeMessage) -> None:
        """Sends an answer; where the stream has ended, reading says why."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.send(message)

    async def _serve(self) -> None:
        while True:
            message = await self._call.read()
            if message is grpc.aio.EOF:
                return
            match message.WhichOneof("body"):
                case "ping":
                    await self._reply(link_pb2.NodeMessage(pong=link_pb2.Pong(token=message.ping.token)))
                case "assignment":
                    self.epoch = message.assignment.epoch
                    self.assigned = [
                        ExpertKey(part.layer, expert)
                        for part in message.assignment.experts
                        for expert in part.experts
                    ]
                    self.ready &= set(self.assigned)
                    if self.reports_ready:
                        self.ready = set(self.assigned)
                        await self.report()
                case "frame":
                    self.frames.append(message.frame)
                    await self.paused.wait()
                    await self._answer(message.frame)
                case "state_change":
                    self.told.append(message.state_change)
                case "closing":
                    self.closing = message.closing

    async def _answer(self, frame: link_pb2.Frame) -> None:
        sequence = frame.sequence
        match self.fault:
            case Fault.SILENT:
                return
            case Fault.HANGS_UP:
                await self._call.done_writing()
                return
            case Fault.UNREADABLE:
                await self.send(link_pb2.NodeMessage())
                return
            case Fault.OVERLOADED | Fault.NOT_HELD:
                reason = (
                    link_pb2.Refusal.REASON_OVERLOADED
                    if self.fault is Fault.OVERLOADED
                    else link_pb2.Refusal.REASON_NOT_HELD
                )
                refusal = link_pb2.Refusal(sequence=sequence, reason=reason, detail="as scripted")
                await self._reply(link_pb2.NodeMessage(refusal=refusal))
                return
        result = self._result(frame)
        if self.fault is Fault.REPLAY and self._first_answer is not None:
            result.CopyFrom(self._first_answer)
            result.sequence = sequence
        elif self._first_answer is None:
            self._first_answer = result
        if self.fault is Fault.UNASKED:
            result.sequence = sequence + 1000
        for _ in range(2 if self.fault is Fault.TWICE else 1):
            await self._reply(link_pb2.NodeMessage(result=result))

    def _result(self, frame: link_pb2.Frame) -> link_pb2.Result:
        layer = frame.layer
        if self.fault is Fault.OTHER_LAYER:
            layer = next(other for other in self.model.manifest.layers if other != layer)
        output = self._compute(frame, layer)
        match self.fault:
            case Fault.NOT_A_NUMBER:
                output[0, 0] = float("nan")
            case Fault.INFINITE:
                output[-1, -1] = float("inf")
            case Fault.OVERFLOWING:
                output[-1, -1] = -1e30
            case Fault.WRONG:
                output = -3 * output
            case Fault.WRONG_SHAPE:
                output = torch.cat([output, output])
            case Fault.WRONG_RANK:
                output = output.reshape(-1)
            case Fault.WRONG_DTYPE:
                output = output.to(torch.float16)
        digest = tensor_digest(wire_dtype(output.dtype), output.shape, raw_bytes(output))
        statement = ResultStatement(self._task(frame, layer).digest(), digest, 0)
        signer = Identity.generate() if self.fault is Fault.OTHER_KEY else self.identity
        result = link_pb2.Result(sequence=frame.sequence, output=encode_tensor(output))
        if self.fault is not Fault.NO_SIGNATURE:
            result.signature = signer.sign(statement.encode())
        match self.fault:
            case Fault.HUGE_LENGTH:
                result.output.length = 4 << 30
            case Fault.HUGE_SHAPE:
                result.output.shape[0] = (1 << 32) - 1
            case Fault.SHORT_DATA:
                result.output.data = result.output.data[:-1]
            case Fault.CHANGED_AFTER_SIGNING:
                result.output.CopyFrom(encode_tensor(output + 1))
        return result

    def _compute(self, frame: link_pb2.Frame, layer: int) -> torch.Tensor:
        dtype = DTYPES[self.model.manifest.dtype]
        hidden = torch.frombuffer(bytearray(frame.hidden.data), dtype=dtype).view(tuple(frame.hidden.shape))
        experts = torch.frombuffer(bytearray(frame.experts.data), dtype=torch.int32)
        rows = torch.frombuffer(bytearray(frame.rows.data), dtype=torch.int32).long()
        gates = torch.frombuffer(bytearray(frame.gates.data), dtype=torch.float32)
        groups = [
            Group(
                self.model.expert(ExpertKey(layer, expert)),
                rows[experts == expert],
                gates[experts == expert],
            )
            for expert in sorted(set(experts.tolist()))
        ]
        return feed_forward(groups, hidden)

    def _task(self, frame: link_pb2.Frame, layer: int) -> TaskStatement:
        rows, width = frame.hidden.shape
        return TaskStatement(
            coordinator=self.coordinator,
            node=self.identity.public,
            session=self.session,
            sequence=frame.sequence,
            manifest=self.model.manifest.digest,
            profile=self.model.manifest.profile,
            layer=layer,
            rows=rows,
            hidden=width,
            routing=routing_digest(frame.experts.data, frame.rows.data, frame.gates.data),
            input=tensor_digest(frame.hidden.dtype, (rows, width), frame.hidden.data),
            deadline_ms=frame.deadline_ms,
        )
