"""Nodes that lie, stall or break the protocol, each in one named way.

Guarantees: a faulty node is the real daemon in everything but its answers; until `honest_frames` were answered it is
honest, and from then on every answer has the fault.
"""

from __future__ import annotations

import dataclasses
from enum import StrEnum

import torch

from folkmoot.models.manifest import Manifest
from folkmoot.node.daemon import NodeDaemon
from folkmoot.node.executor import Executor, Send
from folkmoot.node.rows import Reason, Refused
from folkmoot.node.session import Session
from folkmoot.node.settings import NodeSettings
from folkmoot.node.shelf import Shelf
from folkmoot.protos.codec import encode_tensor, raw_bytes
from folkmoot.protos.folkmoot.v1 import link_pb2, tensor_pb2
from folkmoot.trust.keys import Identity
from folkmoot.trust.statements import ResultStatement, tensor_digest


class Fault(StrEnum):
    """What is wrong with a node's answers."""

    OTHER_KEY = "signs with a key that is not its own"
    NO_SIGNATURE = "sends no signature"
    REPLAY = "sends its first result again under each new frame's number"
    OTHER_LAYER = "signs the answer to another layer"
    OTHER_SESSION = "signs the answer to another session"
    NAN = "answers NaN, well signed"
    WRONG_SHAPE = "answers with a row too many, well signed"
    WRONG_DTYPE = "answers in bfloat16"
    HUGE_LENGTH = "states a length of 4 GB"
    HUGE_SHAPE = "states a shape of 2**62 elements"
    CHANGED_OUTPUT = "changes the output after signing it"
    UNASKED = "answers a frame that nobody sent"
    REFUSAL = "refuses every frame for an internal fault"
    SILENCE = "does not answer"


class FaultyExecutor(Executor):
    """An executor with a fault."""

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        shelf: Shelf,
        send: Send,
        *,
        threads: int,
        fault: Fault,
        honest_frames: int,
    ) -> None:
        super().__init__(session, manifest, shelf, send, threads=threads)
        self._fault_kind = fault
        self._honest_left = honest_frames
        self._first: link_pb2.Result | None = None

    def answer(self, frame: link_pb2.Frame) -> link_pb2.Result | None:
        """The right answer, and then the wrong one."""
        honest = super().answer(frame)
        if self._honest_left > 0 or honest is None:
            self._honest_left -= 1
            self._first = self._first or honest
            return honest
        return self._wrong(frame, honest)

    def _wrong(self, frame: link_pb2.Frame, honest: link_pb2.Result) -> link_pb2.Result | None:
        work = self.read(frame)
        task, output = self.task(frame, work), self.compute(work)
        match self._fault_kind:
            case Fault.OTHER_KEY:
                digest = tensor_digest(tensor_pb2.DTYPE_FLOAT32, output.shape, raw_bytes(output))
                statement = ResultStatement(task=task.digest(), output=digest, status=0)
                honest.signature = Identity.generate().sign(statement.encode())
            case Fault.NO_SIGNATURE:
                honest.signature = b""
            case Fault.REPLAY:
                self._first = self._first or honest
                honest.output.CopyFrom(self._first.output)
                honest.signature = self._first.signature
            case Fault.OTHER_LAYER:
                return self.sign(frame, dataclasses.replace(task, layer=task.layer + 1), output)
            case Fault.OTHER_SESSION:
                return self.sign(frame, dataclasses.replace(task, session=bytes(32)), output)
            case Fault.NAN:
                return self.sign(frame, task, torch.full_like(output, torch.nan))
            case Fault.WRONG_SHAPE:
                return self.sign(frame, task, torch.cat([output, output[:1]]))
            case Fault.WRONG_DTYPE:
                honest.output.CopyFrom(encode_tensor(output.bfloat16()))
            case Fault.HUGE_LENGTH:
                honest.output.length = 4 << 30
            case Fault.HUGE_SHAPE:
                honest.output.CopyFrom(
                    tensor_pb2.Tensor(dtype=honest.output.dtype, shape=[1 << 31, 1 << 31], length=1 << 62)
                )
            case Fault.CHANGED_OUTPUT:
                honest.output.CopyFrom(encode_tensor(output + 1))
            case Fault.UNASKED:
                honest.sequence += 1_000_000
            case Fault.REFUSAL:
                raise Refused(Reason.REASON_INTERNAL, "a fault that a test asked for")
            case Fault.SILENCE:
                return None
        return honest


class FaultyNode(NodeDaemon):
    """A node whose answers have a fault.

    Args:
        settings: As any node's.
        fault: What is wrong with its answers.
        honest_frames: Right answers, of each link's life, before the first wrong one.
    """

    def __init__(self, settings: NodeSettings, *, fault: Fault, honest_frames: int = 0) -> None:
        super().__init__(settings)
        self.fault = fault
        self.honest_frames = honest_frames

    def make_executor(self, session: Session, manifest: Manifest, send: Send) -> Executor:
        """A faulty one."""
        return FaultyExecutor(
            session,
            manifest,
            self.shelf,
            send,
            threads=self.settings.threads,
            fault=self.fault,
            honest_frames=self.honest_frames,
        )
