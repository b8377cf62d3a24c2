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

from dataclasses import dataclass
from typing import Final

from .audit_statements import VerdictStatement
from .byte_reader import ByteReader
from .keys import SIGNATURE_BYTES
from .signed_frame import MalformedEvidenceError, SignedFrame, read_parts
from .statements import StatementError, domain_tag

MAX_EVIDENCE_BYTES: Final = 256 << 20
SUFFIX: Final = ".evidence"

_TAG: Final = domain_tag("evidence")


@dataclass(frozen=True, slots=True)
class Evidence(SignedFrame):
    """One signed result, and all that is needed to check it.

    Attributes:
        manifest_signature: The coordinator's over its manifest.
        verdict: What the coordinator found.
        verdict_signature: Its signature over that.
    """

    manifest_signature: bytes
    verdict: VerdictStatement
    verdict_signature: bytes

    def encode(self) -> bytes:
        """The canonical bytes.

        Raises:
            MalformedEvidenceError: when a part does not fit the others, or the file would be too large.
        """
        for signature in (self.manifest_signature, self.verdict_signature):
            if len(signature) != SIGNATURE_BYTES:
                raise MalformedEvidenceError(f"a signature has not {SIGNATURE_BYTES} bytes")
        encoded = b"".join(
            (
                _TAG,
                self.encode_frame(),
                self.manifest_signature,
                self.verdict.encode(),
                self.verdict_signature,
            )
        )
        if len(encoded) > MAX_EVIDENCE_BYTES:
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
            parts = read_parts(reader)
            manifest_signature = reader.take(SIGNATURE_BYTES)
            verdict = VerdictStatement.decode(reader.take(VerdictStatement.BYTES))
            verdict_signature = reader.take(SIGNATURE_BYTES)
            reader.finish()
        except (StatementError, ValueError) as error:
            raise MalformedEvidenceError(f"the evidence contradicts itself ({error})") from error
        return cls(*parts, manifest_signature, verdict, verdict_signature)
