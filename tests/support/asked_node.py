"""A node as dispatch and the auditor see it: a `Host` in memory that signs results and opens them.

Guarantees: without misconduct its results and openings are an honest node's; with it, only what its name says differs. A
challenge is answered from within `ask`, unless it is kept.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import torch

from folkmoot.coordinator.dispatch.challenge import SentChallenge, Unopened
from folkmoot.coordinator.dispatch.choice import HostEstimate
from folkmoot.coordinator.dispatch.host import Failure, SentFrame
from folkmoot.coordinator.dispatch.pairs import Pairs
from folkmoot.coordinator.dispatch.verified_result import VerifiedResult
from folkmoot.errors import FolkmootError
from folkmoot.ids import ExpertKey, SessionId
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.formats import DTYPES
from folkmoot.kernels.opening import open_expert, stands_in
from folkmoot.protos.codec import decode_tensor, encode_tensor, raw_bytes, wire_dtype
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.trust.audit_statements import ChallengeStatement, OpeningKind, OpeningStatement, rows_digest
from folkmoot.trust.keys import Identity
from folkmoot.trust.statements import ResultStatement, TaskStatement, tensor_digest

from .memory_experts import MemoryExperts


class Misconduct(StrEnum):
    """What a node does wrong."""

    SCALED_OUTPUT = "answers 1 % too much"
    DOUBLED_OUTPUT = "answers twice what is right"
    REFUSES_FRAMES = "computes nothing"
    TILTED_OUTPUT = "adds 0.3 % of each row's size in one direction"
    WRONG_OPENING = "opens other numbers than it computed with"
    SILENT = "does not open"
    LOST = "loses its link when it is asked"
    REFUSES = "refuses to open"
    MOVED_ON = "does not hold the experts any more"
    OTHER_KEY = "signs the opening with another key"
    WRONG_SHAPE = "opens a row less"
    NOT_A_NUMBER = "opens NaN"


class AskedNode:
    """One node.

    Args:
        model: What it holds.
        coordinator: The coordinator's public key.
        does: What it does wrong.
    """

    def __init__(
        self,
        model: MemoryExperts,
        coordinator: bytes,
        *does: Misconduct,
        identity: Identity | None = None,
        keeps: bool = False,
    ) -> None:
        self.model = model
        self.does = does
        self.keeps = keeps
        self.identity = identity or Identity.generate()
        self.node = self.identity.node_id
        self.key = self.identity.verifying_key
        self.session = SessionId(b"s" * 32)
        self.software_version = "test"
        self.asked: list[SentChallenge] = []
        self.frames: list[SentFrame] = []
        self.rejections: list[str] = []
        self._coordinator = coordinator
        self._sequence = 0

    def result(
        self, layer: int = 0, rows: int = 3, *, seed: int = 0, top_k: int = 2, size: float = 1.0
    ) -> VerifiedResult:
        """A signed result as dispatch hands it on; the rows are `size` times as large as those in use."""
        hidden, experts, gates = self.model.routing(rows, seed=seed, top_k=top_k)
        hidden = (hidden * size).to(DTYPES[self.model.manifest.dtype])
        output = self.model.answer(layer, hidden, experts, gates)
        return self._signed(layer, hidden, Pairs.of(experts.numpy(), gates.numpy()), output, 1000)

    def _signed(
        self, layer: int, hidden: torch.Tensor, pairs: Pairs, output: torch.Tensor, deadline_ms: int
    ) -> VerifiedResult:
        if Misconduct.SCALED_OUTPUT in self.does:
            output = output * 1.01
        if Misconduct.DOUBLED_OUTPUT in self.does:
            output = output * 2
        if Misconduct.TILTED_OUTPUT in self.does:
            direction = torch.ones(output.shape[1]) / output.shape[1] ** 0.5
            output = output + 0.003 * output.norm(dim=1, keepdim=True) * direction
        self._sequence += 1
        manifest = self.model.manifest
        task = TaskStatement(
            coordinator=self._coordinator,
            node=self.identity.public,
            session=self.session,
            sequence=self._sequence,
            manifest=manifest.digest,
            profile=manifest.profile,
            layer=layer,
            rows=len(hidden),
            hidden=manifest.hidden,
            routing=pairs.digest,
            input=tensor_digest(wire_dtype(hidden.dtype), hidden.shape, raw_bytes(hidden)),
            deadline_ms=deadline_ms,
        )
        digest = tensor_digest(wire_dtype(output.dtype), output.shape, raw_bytes(output))
        statement = ResultStatement(task.digest(), digest, 0)
        signature = self.identity.sign(statement.encode())
        message = link_pb2.Result(sequence=self._sequence, output=encode_tensor(output), signature=signature)
        return VerifiedResult(self, task, pairs, hidden, message, statement)

    def ask(self, challenge: SentChallenge) -> None:
        """Answers a challenge, or keeps it for `answer`."""
        self.asked.append(challenge)
        if not self.keeps:
            self.answer(challenge)

    def answer(self, challenge: SentChallenge) -> None:
        """Opens, or does what it does instead."""
        for does in self.does:
            match does:
                case Misconduct.SILENT:
                    return challenge.on_end(Unopened.LATE)
                case Misconduct.LOST:
                    return challenge.on_end(Unopened.LINK_LOST)
                case Misconduct.REFUSES | Misconduct.MOVED_ON:
                    held = does is Misconduct.REFUSES
                    reason = link_pb2.Refusal.REASON_INTERNAL if held else link_pb2.Refusal.REASON_NOT_HELD
                    return challenge.on_end(
                        link_pb2.Opening(nonce=challenge.message.nonce, refused="no", reason=reason)
                    )
        challenge.on_end(self._open(challenge.message))
        return None

    def _open(self, asked: link_pb2.Challenge) -> link_pb2.Opening:
        manifest = self.model.manifest
        dtype = DTYPES[manifest.dtype]
        hidden = decode_tensor(
            asked.hidden, dtype=dtype, shape=(None, manifest.hidden), max_bytes=1 << 30, what="hidden"
        )
        experts = np.frombuffer(asked.experts.data, "<i4")
        rows = np.frombuffer(asked.rows.data, "<i4")
        gates, ups, wire = [], [], torch.float32
        for number in np.unique(experts):
            chosen = torch.from_numpy(rows[experts == number].astype(np.int64))
            expert = self.model.expert(ExpertKey(asked.layer, int(number)))
            if asked.kind == OpeningKind.RAW:
                wire = stands_in(expert, dtype)
            gate, up = open_expert(expert, hidden[chosen])
            assert gate is not None
            gates.append(gate)
            ups.append(up)
        gate, up = torch.cat(gates).to(wire), torch.cat(ups).to(wire)
        if Misconduct.WRONG_OPENING in self.does:
            up = up * 1.5
        if Misconduct.NOT_A_NUMBER in self.does:
            gate = torch.full_like(gate, torch.nan)
        if Misconduct.WRONG_SHAPE in self.does:
            up = up[1:]
        challenge = ChallengeStatement(
            coordinator=self._coordinator,
            node=self.identity.public,
            session=self.session,
            sequence=asked.sequence,
            result=asked.result,
            rows=rows_digest(list(asked.asked)),
            kind=asked.kind,
            nonce=asked.nonce,
        )
        digests = (tensor_digest(wire_dtype(part.dtype), part.shape, raw_bytes(part)) for part in (gate, up))
        signer = Identity.generate() if Misconduct.OTHER_KEY in self.does else self.identity
        signature = signer.sign(OpeningStatement(challenge.digest(), *digests).encode())
        return link_pb2.Opening(
            nonce=asked.nonce, gate=encode_tensor(gate), up=encode_tensor(up), signature=signature
        )

    def estimate(self) -> HostEstimate:
        """Fast."""
        return HostEstimate(0.001, 1e-10)

    def deadline_s(self, rows: int) -> float:
        """A minute."""
        return 60.0

    def reserve(self, frame: SentFrame) -> None:
        """It has no queue."""

    def send(self, frame: SentFrame) -> None:
        """Answers a frame at once."""
        self.frames.append(frame)
        if Misconduct.REFUSES_FRAMES in self.does:
            frame.on_end(frame, Failure.OVERLOADED)
            return
        wire, manifest = frame.message.frame, self.model.manifest
        shape = (None, manifest.hidden)
        hidden = decode_tensor(
            wire.hidden, dtype=DTYPES[manifest.dtype], shape=shape, max_bytes=1 << 30, what="hidden"
        )
        pairs = Pairs(
            np.frombuffer(bytearray(wire.experts.data), "<i4"),
            np.frombuffer(bytearray(wire.rows.data), "<i4"),
            np.frombuffer(bytearray(wire.gates.data), "<f4"),
        )
        output = feed_forward(
            [
                Group(self.model.expert(ExpertKey(wire.layer, expert)), rows, gates)
                for expert, rows, gates in pairs.by_expert
            ],
            hidden,
        )
        result = self._signed(wire.layer, hidden, pairs, output, wire.deadline_ms)
        frame.sequence = result.task.sequence
        frame.on_end(frame, result.result)

    def verified(self, frame: SentFrame) -> None:
        """Its answer was right."""

    def rejected(self, frame: SentFrame, error: FolkmootError, reason: str) -> None:
        """Its answer was thrown away."""
        self.rejections.append(reason)
