"""The coordinator's end of one link, driven by a test: it sends anything, and waits for what the node makes of it.

Guarantees: signatures are checked against statements that are made here, from what was sent and not from what came back;
every wait has a limit.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import torch

from folkmoot.ids import ExpertKey, SessionId
from folkmoot.protos.codec import decode_tensor, encode_tensor
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.trust.audit_statements import (
    ChallengeStatement,
    OpeningKind,
    OpeningStatement,
    rows_digest,
)
from folkmoot.trust.keys import VerifyingKey
from folkmoot.trust.statements import ResultStatement, TaskStatement, routing_digest, tensor_digest

if TYPE_CHECKING:
    from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator

PATIENCE_S = 60.0

Pairs = Sequence[tuple[int, int, float]]
"""Expert, row and gate, in canonical order."""


class ScriptedLink:
    """The coordinator's end of one link."""

    def __init__(self, hello: link_pb2.Hello, session: SessionId, coordinator: ScriptedCoordinator) -> None:
        self.hello = hello
        self.session = session
        self.holdings: list[link_pb2.Holdings] = []
        self.wishes: list[link_pb2.Wish] = []
        self.leaving = ""
        self.ended = False
        self._coordinator = coordinator
        self._outgoing: asyncio.Queue[link_pb2.CoordinatorMessage | bytes | None] = asyncio.Queue()
        self._answers: dict[int, link_pb2.Result | link_pb2.Refusal] = {}
        self.openings: dict[bytes, link_pb2.Opening] = {}
        self._pongs: list[int] = []
        self._changed = asyncio.Condition()
        self._sequence = 0
        self._epoch = 0

    def send(self, message: link_pb2.CoordinatorMessage | bytes) -> None:
        """Queues anything at all for the node; bytes need not even be a message."""
        self._outgoing.put_nowait(message)

    def end(self) -> None:
        """Ends the stream without a word."""
        self._outgoing.put_nowait(None)

    def assign(self, keys: Sequence[ExpertKey]) -> int:
        """Assigns exactly these experts; returns the epoch."""
        self._epoch += 1
        layers = sorted({key.layer for key in keys})
        ranges = [
            link_pb2.ExpertRange(layer=layer, experts=[key.expert for key in keys if key.layer == layer])
            for layer in layers
        ]
        self.send(
            link_pb2.CoordinatorMessage(assignment=link_pb2.Assignment(epoch=self._epoch, experts=ranges))
        )
        return self._epoch

    async def settled(
        self, epoch: int, *, ready: Sequence[ExpertKey], refused: Sequence[ExpertKey] = ()
    ) -> None:
        """Returns when the node reports exactly this for the epoch."""
        await self.until(
            lambda: any(
                report.epoch == epoch
                and keys_of(report.ready) == set(ready)
                and keys_of(report.refused) == set(refused)
                for report in self.holdings
            )
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns when something that the node sent made the condition true."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(condition)

    async def ping(self, token: int) -> None:
        """Returns when the node answered."""
        self.send(link_pb2.CoordinatorMessage(ping=link_pb2.Ping(token=token)))
        await self.until(lambda: token in self._pongs)

    def frame(
        self, layer: int, hidden: torch.Tensor, pairs: Pairs, deadline_ms: int = 10_000
    ) -> link_pb2.Frame:
        """The next frame, not sent yet."""
        self._sequence += 1
        return link_pb2.Frame(
            sequence=self._sequence,
            layer=layer,
            hidden=encode_tensor(hidden),
            experts=encode_tensor(torch.tensor([expert for expert, _, _ in pairs], dtype=torch.int32)),
            rows=encode_tensor(torch.tensor([row for _, row, _ in pairs], dtype=torch.int32)),
            gates=encode_tensor(torch.tensor([gate for _, _, gate in pairs], dtype=torch.float32)),
            deadline_ms=deadline_ms,
        )

    async def answer(self, frame: link_pb2.Frame) -> link_pb2.Result | link_pb2.Refusal:
        """Sends a frame and returns what the node makes of it."""
        self._answers.pop(frame.sequence, None)
        self.send(link_pb2.CoordinatorMessage(frame=frame))
        return await self.answer_to(frame.sequence)

    async def answer_to(self, sequence: int) -> link_pb2.Result | link_pb2.Refusal:
        """What the node makes of a frame that was sent."""
        await self.until(lambda: sequence in self._answers)
        return self._answers.pop(sequence)

    def answered(self, sequence: int) -> bool:
        """Whether a frame has an answer that nobody took."""
        return sequence in self._answers

    def check(self, frame: link_pb2.Frame, result: link_pb2.Result) -> None:
        """Returns when the node's signature over the result of this frame holds; raises SignatureError."""
        VerifyingKey(self.hello.node_key).verify(result.signature, self.statement(frame, result).encode())

    def statement(self, frame: link_pb2.Frame, result: link_pb2.Result) -> ResultStatement:
        """What the node should have signed, if this result answers this frame."""
        rows, hidden = frame.hidden.shape
        task = TaskStatement(
            coordinator=self._coordinator.identity.public,
            node=self.hello.node_key,
            session=self.session,
            sequence=frame.sequence,
            manifest=self._coordinator.experts.manifest.digest,
            profile=self._coordinator.experts.manifest.profile,
            layer=frame.layer,
            rows=rows,
            hidden=hidden,
            routing=routing_digest(frame.experts.data, frame.rows.data, frame.gates.data),
            input=tensor_digest(frame.hidden.dtype, frame.hidden.shape, frame.hidden.data),
            deadline_ms=frame.deadline_ms,
        )
        output = tensor_digest(result.output.dtype, result.output.shape, result.output.data)
        return ResultStatement(task=task.digest(), output=output, status=0)

    def challenge(
        self,
        frame: link_pb2.Frame,
        result: link_pb2.Result,
        asked: Sequence[int],
        kind: OpeningKind = OpeningKind.TIGHT,
        deadline_ms: int = 10_000,
    ) -> link_pb2.Challenge:
        """A challenge about some rows of a result, not sent yet."""
        hidden, experts, rows = (
            decode_tensor(part, dtype=None, shape=(None,) * len(part.shape), max_bytes=1 << 24, what="sent")
            for part in (frame.hidden, frame.experts, frame.rows)
        )
        wanted = torch.isin(rows, torch.tensor(asked, dtype=torch.int32))
        index = torch.searchsorted(torch.tensor(asked, dtype=torch.int32), rows[wanted]).int()
        return link_pb2.Challenge(
            sequence=frame.sequence,
            result=hashlib.sha256(self.statement(frame, result).encode()).digest(),
            kind=kind,
            nonce=secrets.token_bytes(32),
            layer=frame.layer,
            hidden=encode_tensor(hidden[list(asked)]),
            experts=encode_tensor(experts[wanted]),
            rows=encode_tensor(index),
            asked=asked,
            deadline_ms=deadline_ms,
        )

    async def opening(self, challenge: link_pb2.Challenge) -> link_pb2.Opening:
        """Sends a challenge and returns what the node opens."""
        self.send(link_pb2.CoordinatorMessage(challenge=challenge))
        return await self.opening_to(challenge.nonce)

    async def opening_to(self, nonce: bytes) -> link_pb2.Opening:
        """What the node opens to a challenge that was sent."""
        await self.until(lambda: nonce in self.openings)
        return self.openings.pop(nonce)

    def check_opening(self, challenge: link_pb2.Challenge, opening: link_pb2.Opening) -> None:
        """Returns when the node's signature over this opening holds; raises SignatureError."""
        asked = ChallengeStatement(
            coordinator=self._coordinator.identity.public,
            node=self.hello.node_key,
            session=self.session,
            sequence=challenge.sequence,
            result=challenge.result,
            rows=rows_digest(challenge.asked),
            kind=challenge.kind,
            nonce=challenge.nonce,
        )
        gate, up = (tensor_digest(part.dtype, part.shape, part.data) for part in (opening.gate, opening.up))
        statement = OpeningStatement(challenge=asked.digest(), gate=gate, up=up)
        VerifyingKey(self.hello.node_key).verify(opening.signature, statement.encode())

    async def _take(self, message: link_pb2.NodeMessage) -> None:
        async with self._changed:
            match message.WhichOneof("body"):
                case "holdings":
                    self.holdings.append(message.holdings)
                case "result":
                    self._answers[message.result.sequence] = message.result
                case "refusal":
                    self._answers[message.refusal.sequence] = message.refusal
                case "opening":
                    self.openings[message.opening.nonce] = message.opening
                case "pong":
                    self._pongs.append(message.pong.token)
                case "wish":
                    self.wishes.append(message.wish)
                case "leaving":
                    self.leaving = message.leaving.reason
                case body:
                    raise AssertionError(f"the node sent {body} out of order")
            self._changed.notify_all()

    async def serve(self, call: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Reads and writes until either side ends the stream."""
        writing = asyncio.create_task(self._write(call))
        reading = asyncio.create_task(self._read(call))
        try:
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            writing.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
            async with self._changed:
                self.ended = True
                self._changed.notify_all()

    async def _write(self, call: grpc.aio.ServicerContext[Any, Any]) -> None:
        while (message := await self._outgoing.get()) is not None:
            await call.write(message)

    async def _read(self, call: grpc.aio.ServicerContext[Any, Any]) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            await self._take(message)


def keys_of(ranges: Sequence[link_pb2.ExpertRange]) -> set[ExpertKey]:
    """The experts in ranges of the wire."""
    return {ExpertKey(part.layer, expert) for part in ranges for expert in part.experts}
