"""Evidence as small as it can be: every signature holds, and what it says of the weights is for nobody to know."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Final

import numpy as np

from folkmoot.trust.audit_statements import VerdictKind, VerdictStatement
from folkmoot.trust.bias_evidence import BiasEvidence, CountedFrame
from folkmoot.trust.check_steps import PublicModel
from folkmoot.trust.evidence import Evidence
from folkmoot.trust.keys import Identity
from folkmoot.trust.signed_frame import SignedFrame, StatedRouting
from folkmoot.trust.stated_tensors import StatedTensor, StatedType
from folkmoot.trust.statements import ResultStatement, TaskStatement, manifest_statement

COORDINATOR, NODE, OTHER = (Identity(bytes([n]) * 32) for n in range(1, 4))
MANIFEST: Final = b'{"a": "manifest"}'
DIGEST: Final = hashlib.sha256(MANIFEST).digest()
NO_EXPERTS: Final = PublicModel(MANIFEST, lambda key: None)
"""A model of which nothing can be computed: whatever gets as far as that had every signature right."""
PROFILE: Final = "float32-accumulate/1"


def _tensor(rows: int, hidden: int, seed: int) -> StatedTensor:
    numbers = np.random.default_rng(seed).normal(size=(rows, hidden)).astype("<f4")
    return StatedTensor(StatedType.FLOAT32, (rows, hidden), numbers.tobytes())


def signed_frame(sequence: int, rows: int, hidden: int) -> SignedFrame:
    """A frame of which each row went through one expert."""
    sent, output = _tensor(rows, hidden, sequence), _tensor(rows, hidden, 1000 + sequence)
    routing = StatedRouting(
        np.zeros(rows, "<i4").tobytes(),
        np.arange(rows, dtype="<i4").tobytes(),
        np.ones(rows, "<f4").tobytes(),
    )
    task = TaskStatement(
        COORDINATOR.public,
        NODE.public,
        b"s" * 32,
        sequence,
        DIGEST,
        PROFILE,
        5,
        rows,
        hidden,
        routing.digest(),
        sent.digest(),
        5000,
    )
    result = ResultStatement(task.digest(), output.digest(), 0)
    return SignedFrame(task, result, NODE.sign(result.encode()), sent, routing, output)


def _verdict(frame: SignedFrame, kind: VerdictKind) -> VerdictStatement:
    task, output = frame.task, frame.result.output
    return VerdictStatement(
        task.coordinator, task.node, DIGEST, task.digest(), output, kind, 150_000, 7_000, 1
    )


@cache
def evidence(rows: int = 2, hidden: int = 3) -> Evidence:
    """Against one result."""
    frame = signed_frame(9, rows, hidden)
    verdict = _verdict(frame, VerdictKind.WRONG)
    return Evidence(
        frame.task,
        frame.result,
        frame.signature,
        frame.input,
        frame.routing,
        frame.output,
        COORDINATOR.sign(manifest_statement(DIGEST)),
        verdict,
        COORDINATOR.sign(verdict.encode()),
    )


@cache
def bias_evidence(frames: int = 2, rows: int = 52) -> BiasEvidence:
    """Against many results together."""
    each = [signed_frame(sequence, rows, 1) for sequence in range(1, frames + 1)]
    verdict = _verdict(each[-1], VerdictKind.BIASED)
    return BiasEvidence(
        tuple(CountedFrame(frame, tuple(range(1, rows))) for frame in each),
        COORDINATOR.sign(manifest_statement(DIGEST)),
        verdict,
        COORDINATOR.sign(verdict.encode()),
    )
