"""Evidence: a file that shows a third party that a node's signed result was wrong.

Guarantees: a file holds all that a check needs but the model's weights: the task, the node's signed result, the input, the
routing, the output, and the coordinator's signatures over manifest and verdict. It has one encoding: `decode` takes no bytes but those that `encode` gives back. Parsing is
bounded, allocates only what is there, and raises `MalformedEvidenceError` and nothing else. Nothing in it is believed
until `check_evidence` has checked it.

The form is binary with fields in one order, because most of it is arrays of activations: JSON would make them a third
larger, and the same evidence would have many encodings. Whoever publishes evidence publishes a frame's activations,
from which words of a prompt can be recovered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ..errors import TrustError
from .audit_statements import VerdictStatement
from .byte_reader import ByteReader
from .expert_arithmetic import ExpertRows
from .keys import SIGNATURE_BYTES
from .stated_tensors import StatedTensor, StatedType
from .statements import (
    RESULT_BYTES,
    TASK_BYTES,
    ResultStatement,
    StatementError,
    TaskStatement,
    domain_tag,
    routing_digest,
)

MAX_EVIDENCE_BYTES: Final = 256 << 20
MAX_PAIRS: Final = 1 << 20
MAX_PROFILE_BYTES: Final = 64
SUFFIX: Final = ".evidence"

_TAG: Final = domain_tag("evidence")


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
class Evidence:
    """One signed result, and all that is needed to check it.

    Attributes:
        task, result: What was asked, and what the node answered.
        signature: The node's, over the result.
        input: [rows, hidden] as the node was sent it.
        routing: Which experts worked on which rows.
        output: [rows, hidden] as the node signed it.
        manifest_signature: The coordinator's over its manifest.
        verdict: What the coordinator found.
        verdict_signature: Its signature over that.
    """

    task: TaskStatement
    result: ResultStatement
    signature: bytes
    input: StatedTensor
    routing: StatedRouting
    output: StatedTensor
    manifest_signature: bytes
    verdict: VerdictStatement
    verdict_signature: bytes

    def encode(self) -> bytes:
        """The canonical bytes.

        Raises:
            MalformedEvidenceError: when a part does not fit the others, or the file would be too large.
        """
        shape = (self.task.rows, self.task.hidden)
        signatures = (self.signature, self.manifest_signature, self.verdict_signature)
        profile = self.task.profile.encode()
        if self.input.shape != shape or self.output.shape != shape or 0 in shape:
            raise MalformedEvidenceError(f"input and output are not {shape[0]} x {shape[1]}")
        if any(len(signature) != SIGNATURE_BYTES for signature in signatures):
            raise MalformedEvidenceError(f"a signature has not {SIGNATURE_BYTES} bytes")
        parts = (self.routing.experts, self.routing.rows, self.routing.gates)
        if {len(part) for part in parts} != {4 * self.routing.pairs} or len(profile) > MAX_PROFILE_BYTES:
            raise MalformedEvidenceError(
                "the parts of the routing are of different lengths, or the profile is too long"
            )
        encoded = b"".join(
            (
                _TAG,
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
                self.manifest_signature,
                self.verdict.encode(),
                self.verdict_signature,
            )
        )
        if len(encoded) > MAX_EVIDENCE_BYTES or self.routing.pairs > MAX_PAIRS:
            raise MalformedEvidenceError(f"evidence of {len(encoded)} bytes is over the cap")
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> Evidence:
        """Reads what `encode` made.

        Raises:
            MalformedEvidenceError: when the bytes are anything else.
        """
        if len(data) > MAX_EVIDENCE_BYTES:
            raise MalformedEvidenceError(f"{len(data)} bytes are over the cap of {MAX_EVIDENCE_BYTES}")
        reader = ByteReader(data, MalformedEvidenceError)
        reader.expect(_TAG, "evidence file of this version")
        try:
            return cls._read(reader)
        except (StatementError, ValueError) as error:
            raise MalformedEvidenceError(f"the evidence contradicts itself ({error})") from error

    @classmethod
    def _read(cls, reader: ByteReader) -> Evidence:
        profile = reader.text(MAX_PROFILE_BYTES)
        task = TaskStatement.decode(reader.take(TASK_BYTES), profile)
        if not task.rows or not task.hidden:
            raise MalformedEvidenceError("evidence about no rows is none")
        result = ResultStatement.decode(reader.take(RESULT_BYTES))
        signature = reader.take(SIGNATURE_BYTES)
        sent = _read_tensor(reader, task)
        width = 4 * reader.number(4, MAX_PAIRS)
        routing = StatedRouting(reader.take(width), reader.take(width), reader.take(width))
        output = _read_tensor(reader, task)
        manifest_signature = reader.take(SIGNATURE_BYTES)
        verdict = VerdictStatement.decode(reader.take(VerdictStatement.BYTES))
        verdict_signature = reader.take(SIGNATURE_BYTES)
        reader.finish()
        return cls(
            task,
            result,
            signature,
            sent,
            routing,
            output,
            manifest_signature,
            verdict,
            verdict_signature,
        )


def _read_tensor(reader: ByteReader, task: TaskStatement) -> StatedTensor:
    dtype = StatedType(reader.number(1, max(StatedType)))
    shape = (task.rows, task.hidden)
    return StatedTensor(dtype, shape, reader.take(task.rows * task.hidden * dtype.size))
