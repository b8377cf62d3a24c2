"""Evidence of a bias: several signed results of one node which are all a little wrong in the same way.

Guarantees: as those of `evidence.py`, for many frames: a file holds all that a check needs but the weights, has one encoding, is
bounded, and is believed in nothing until it was checked. Of each frame it says which rows count, so that whoever checks recomputes
these and no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .audit_statements import VerdictStatement
from .byte_reader import ByteReader
from .evidence import MAX_EVIDENCE_BYTES
from .keys import SIGNATURE_BYTES
from .signed_frame import MalformedEvidenceError, SignedFrame
from .statements import StatementError, domain_tag

MAX_FRAMES: Final = 4096
MAX_ROWS: Final = 4096
"""Rows that count, of all frames together."""

_TAG: Final = domain_tag("bias-evidence")


@dataclass(frozen=True, slots=True)
class CountedFrame:
    """A frame, and which of its rows count: ascending, one at least."""

    frame: SignedFrame
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BiasEvidence:
    """Signed results of one node and layer, and all that is needed to weigh them.

    Attributes:
        frames: The results, in the order in which they were weighed; the verdict names the last.
        manifest_signature: The coordinator's over its manifest.
        verdict: What the coordinator found.
        verdict_signature: Its signature over that.
    """

    frames: tuple[CountedFrame, ...]
    manifest_signature: bytes
    verdict: VerdictStatement
    verdict_signature: bytes

    @property
    def rows(self) -> int:
        """How many rows count."""
        return sum(len(one.rows) for one in self.frames)

    def encode(self) -> bytes:
        """The canonical bytes.

        Raises:
            MalformedEvidenceError: when a part does not fit the others, or the file would be too large.
        """
        if not 0 < len(self.frames) <= MAX_FRAMES or not 0 < self.rows <= MAX_ROWS:
            raise MalformedEvidenceError(f"{len(self.frames)} frames with {self.rows} rows cannot be stated")
        for signature in (self.manifest_signature, self.verdict_signature):
            if len(signature) != SIGNATURE_BYTES:
                raise MalformedEvidenceError(f"a signature has not {SIGNATURE_BYTES} bytes")
        parts = [_TAG, len(self.frames).to_bytes(4)]
        for one in self.frames:
            _check_rows(one.rows, one.frame.task.rows)
            parts += [one.frame.encode_frame(), len(one.rows).to_bytes(4)]
            parts += [row.to_bytes(4) for row in one.rows]
        parts += [self.manifest_signature, self.verdict.encode(), self.verdict_signature]
        length = sum(map(len, parts))
        if length > MAX_EVIDENCE_BYTES:
            raise MalformedEvidenceError(f"evidence of {length} bytes is over the cap")
        return b"".join(parts)

    @staticmethod
    def is_meant(data: bytes) -> bool:
        """Whether bytes begin as this kind of evidence does."""
        return data.startswith(_TAG)

    @classmethod
    def decode(cls, data: bytes) -> BiasEvidence:
        """Reads what `encode` made.

        Raises:
            MalformedEvidenceError: when the bytes are anything else.
        """
        if len(data) > MAX_EVIDENCE_BYTES:
            raise MalformedEvidenceError(f"{len(data)} bytes are over the cap of {MAX_EVIDENCE_BYTES}")
        reader = ByteReader(data, MalformedEvidenceError)
        reader.expect(_TAG, "evidence of a bias of this version")
        try:
            frames = tuple(_read_frame(reader) for _ in range(reader.number(4, MAX_FRAMES)))
            if not 0 < sum(len(one.rows) for one in frames) <= MAX_ROWS:
                raise MalformedEvidenceError(f"no row counts, or more than {MAX_ROWS} do")
            manifest_signature = reader.take(SIGNATURE_BYTES)
            verdict = VerdictStatement.decode(reader.take(VerdictStatement.BYTES))
            verdict_signature = reader.take(SIGNATURE_BYTES)
            reader.finish()
        except (StatementError, ValueError) as error:
            raise MalformedEvidenceError(f"the evidence contradicts itself ({error})") from error
        return cls(frames, manifest_signature, verdict, verdict_signature)


def _read_frame(reader: ByteReader) -> CountedFrame:
    frame = SignedFrame.read(reader)
    rows = tuple(reader.number(4, frame.task.rows - 1) for _ in range(reader.number(4, MAX_ROWS)))
    _check_rows(rows, frame.task.rows)
    return CountedFrame(frame, rows)


def _check_rows(rows: tuple[int, ...], of: int) -> None:
    if not rows or list(rows) != sorted(set(rows)) or rows[0] < 0 or rows[-1] >= of:
        raise MalformedEvidenceError("the rows that count are none, out of order, or not in their frame")
