"""Statements of an audit: the question, the node's answer, and what came of it.

Guarantees: a challenge names one result that its node has committed to, and a nonce, so an opening answers one
challenge only; an opening commits to the bytes of what it opens; a verdict names the result, the model and the
measured error. Each has a domain tag of its own, so none can pass for a result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from .canonical import CanonicalStatement
from .statements import StatementError, domain_tag

_ROWS_TAG: Final = domain_tag("rows")
MILLIONTH: Final = 1e-6
_MOST_MILLIONTHS: Final = 2**63 - 1


class OpeningKind(IntEnum):
    """How exactly a node opens its gate and up activations."""

    RAW = 1
    """As it used them when it computed the result: rounded at most once each."""
    TIGHT = 2
    """Computed again with float32 throughout."""


class VerdictKind(IntEnum):
    """What a float64 recomputation showed."""

    CLEARED = 1
    WRONG = 2
    BIASED = 3
    """Results of one layer, many together, point one way; `task` and `output` are of the last of them."""


def rows_digest(rows: Sequence[int]) -> bytes:
    """SHA-256 that names the rows of a frame that a challenge asks for: 32 bytes.

    Raises:
        StatementError: when a row is out of range.
    """
    try:
        encoded = b"".join(row.to_bytes(4, "big") for row in rows)
    except OverflowError:
        raise StatementError("a row's index must fit 32 bits") from None
    return hashlib.sha256(_ROWS_TAG + len(rows).to_bytes(8, "big") + encoded).digest()


def millionths(error: float) -> int:
    """A relative error as a statement has it: rounded down to millionths; what is no number or too large is the largest."""
    scaled = error / MILLIONTH
    return int(scaled) if 0 <= scaled < _MOST_MILLIONTHS else _MOST_MILLIONTHS


@dataclass(frozen=True, slots=True)
class ChallengeStatement(CanonicalStatement, kind="challenge", form="32s32s32sQ32s32sI32s"):
    """What a coordinator asks about a result, once the signature that covers it is stored.

    Attributes:
        coordinator, node: Their public keys.
        session: The link's session id.
        sequence: The frame's number.
        result: SHA-256 of the result statement.
        rows: `rows_digest` of the rows asked for.
        kind: `OpeningKind`.
        nonce: 32 random bytes.
    """

    coordinator: bytes
    node: bytes
    session: bytes
    sequence: int
    result: bytes
    rows: bytes
    kind: int
    nonce: bytes


@dataclass(frozen=True, slots=True)
class OpeningStatement(CanonicalStatement, kind="opening", form="32s32s32s"):
    """What a node signs when it opens what stands between its products.

    Attributes:
        challenge: Digest of the challenge.
        gate: `tensor_digest` of the gate activations, a row for each pair of the rows asked for in the frame's order; of an
            empty tensor where experts have no gate.
        up: The same of the up activations.
    """

    challenge: bytes
    gate: bytes
    up: bytes


@dataclass(frozen=True, slots=True)
class VerdictStatement(CanonicalStatement, kind="verdict", form="32s32s32s32s32sIQQQ"):
    """What a coordinator signs after a recomputation.

    Attributes:
        coordinator, node: Their public keys.
        manifest: Digest of the model's manifest.
        task: Digest of the task statement.
        output: `tensor_digest` of the output that the node signed.
        kind: `VerdictKind`.
        error_millionths: The largest relative L2 error of a row; for `BIASED`, what stays of many rows' errors together.
        tolerance_millionths: What was allowed.
        decided_unix_s: When.
    """

    coordinator: bytes
    node: bytes
    manifest: bytes
    task: bytes
    output: bytes
    kind: int
    error_millionths: int
    tolerance_millionths: int
    decided_unix_s: int
