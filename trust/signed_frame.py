"""A frame as evidence has it: what was asked, what the node signed, and the arrays that both are about.

Guarantees: `read` takes no bytes but those that `encode` gives back, is bounded, and allocates only what is there. Nothing in it is
believed until it has been checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from ..errors import TrustError
from .byte_reader import ByteReader
from .expert_arithmetic import ExpertRows
from .keys import SIGNATURE_BYTES
from .stated_tensors import StatedTensor, StatedType
from .statements import RESULT_BYTES, TASK_BYTES, ResultStatement, TaskStatement, routing_digest

MAX_PAIRS: Final = 1 << 20
MAX_PROFILE_BYTES: Final = 64


class MalformedEvidenceError(TrustError):
    """Bytes are no evidence file."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class StatedRouting:
    """A frame's pairs of expert and row with their gates, as the wire has them: little-endian int32, int32, float32."""

    experts: bytes = field(repr=False)
    rows: bytes = field(repr=False)
    gates: bytes = field(repr=False)

    @property
    def pairs(self) -> int:
        """How many there are."""
        return len(self.experts) // 4

    def digest(self) -> bytes:
        """Its `routing_digest`."""
        return routing_digest(self.experts, self.rows, self.gates)

    def by_expert(self, rows: int) -> list[ExpertRows] | None:
        """The rows of each expert; None when the pairs are not in canonical order, or name rows outside the frame.

        Args:
            rows: How many the frame has.
        """
        experts = np.frombuffer(self.experts, "<i4").astype(np.int64)
        indices = np.frombuffer(self.rows, "<i4").astype(np.int64)
        gates = np.frombuffer(self.gates, "<f4").astype(np.float32)
        if not len(experts) or experts.min() < 0 or indices.min() < 0 or indices.max() >= rows:
            return None
        same = np.diff(experts) == 0
        if (
            (np.diff(experts) < 0).any()
            or (np.diff(indices)[same] <= 0).any()
            or not np.isfinite(gates).all()
        ):
            return None
        starts = np.flatnonzero(np.diff(experts, prepend=-1))
        ends = [*starts[1:], len(experts)]
        return [
            ExpertRows(int(experts[start]), indices[start:end], gates[start:end])
            for start, end in zip(starts, ends, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class SignedFrame:
    """One signed result, and all that it is about.

    Attributes:
        task, result: What was asked, and what the node answered.
        signature: The node's, over the result.
        input: [rows, hidden] as the node was sent it.
        routing: Which experts worked on which rows.
        output: [rows, hidden] as the node signed it.
    """

    task: TaskStatement
    result: ResultStatement
    signature: bytes
    input: StatedTensor
    routing: StatedRouting
    output: StatedTensor

    def encode_frame(self) -> bytes:
        """The canonical bytes.

        Raises:
            MalformedEvidenceError: when a part does not fit the others.
        """
        shape = (self.task.rows, self.task.hidden)
        profile = self.task.profile.encode()
        if self.input.shape != shape or self.output.shape != shape or 0 in shape:
            raise MalformedEvidenceError(f"input and output are not {shape[0]} x {shape[1]}")
        if len(self.signature) != SIGNATURE_BYTES:
            raise MalformedEvidenceError(f"a signature has not {SIGNATURE_BYTES} bytes")
        parts = (self.routing.experts, self.routing.rows, self.routing.gates)
        if {len(part) for part in parts} != {4 * self.routing.pairs} or len(profile) > MAX_PROFILE_BYTES:
            raise MalformedEvidenceError(
                "the parts of the routing are of different lengths, or the profile is too long"
            )
        if self.routing.pairs > MAX_PAIRS:
            raise MalformedEvidenceError(f"{self.routing.pairs} pairs are over the cap of {MAX_PAIRS}")
        return b"".join(
            (
                len(profile).to_bytes(2),
                profile,
                self.task.encode(),
                self.result.encode(),
                self.signature,
                self.input.dtype.to_bytes(1),
                self.input.data,
                self.routing.pairs.to_bytes(4),
                *parts,
                self.output.dtype.to_bytes(1),
                self.output.data,
            )
        )

    @classmethod
    def read(cls, reader: ByteReader) -> Self:
        """Reads what `encode_frame` made.

        Raises:
            StatementError, ValueError, and what the reader raises: when the bytes are anything else.
        """
        return cls(*read_parts(reader))


def read_parts(
    reader: ByteReader,
) -> tuple[TaskStatement, ResultStatement, bytes, StatedTensor, StatedRouting, StatedTensor]:
    """The fields of a frame, in order; raises as `SignedFrame.read`."""
    profile = reader.text(MAX_PROFILE_BYTES)
    task = TaskStatement.decode(reader.take(TASK_BYTES), profile)
    if not task.rows or not task.hidden:
        raise MalformedEvidenceError("evidence about no rows is none")
    result = ResultStatement.decode(reader.take(RESULT_BYTES))
    signature = reader.take(SIGNATURE_BYTES)
    sent = _read_tensor(reader, task)
    width = 4 * reader.number(4, MAX_PAIRS)
    routing = StatedRouting(reader.take(width), reader.take(width), reader.take(width))
    return task, result, signature, sent, routing, _read_tensor(reader, task)


def _read_tensor(reader: ByteReader, task: TaskStatement) -> StatedTensor:
    dtype = StatedType(reader.number(1, max(StatedType)))
    shape = (task.rows, task.hidden)
    return StatedTensor(dtype, shape, reader.take(task.rows * task.hidden * dtype.size))
