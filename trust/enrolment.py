"""The two proofs of enrolment: that a node holds its key, and that it was invited.

Guarantees: both proofs cover the same enrolment statement, which both sides' nonces make new each time; the proof of the
invite is an HMAC-SHA256 under the join secret, compared in constant time, so the secret never crosses the wire; whichever
proof is missing or wrong, nothing is enrolled.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from ..errors import TrustError
from .keys import Identity, VerifyingKey

JOIN_SECRET_BYTES: Final = 16


class NotInvitedError(TrustError):
    """The node does not know the join secret of this coordinator's invite."""


@dataclass(frozen=True)
class EnrolmentProof:
    """What a node sends to be enrolled.

    Attributes:
        invite_proof: HMAC-SHA256 under the join secret over the enrolment statement, 32 bytes.
        possession_proof: Ed25519 signature over it, 64 bytes.
    """

    invite_proof: bytes
    possession_proof: bytes


def prove(identity: Identity, join_secret: bytes, statement: bytes) -> EnrolmentProof:
    """A node's proofs over an `enrolment_statement`."""
    return EnrolmentProof(hmac.digest(join_secret, statement, "sha256"), identity.sign(statement))


def check_proof(node_key: bytes, join_secret: bytes, statement: bytes, proof: EnrolmentProof) -> VerifyingKey:
    """The node's key, once both proofs over the statement hold.

    Raises:
        WeakKeyError: when the node's key is not one that binds its owner.
        NotInvitedError: when the proof of the invite is missing or wrong.
        SignatureError: when the proof of possession is missing or wrong.
    """
    key = VerifyingKey(node_key)
    if not hmac.compare_digest(hmac.digest(join_secret, statement, "sha256"), proof.invite_proof):
        raise NotInvitedError(
            "the join secret is not this coordinator's", advice="ask the operator for a current invite"
        )
    key.verify(proof.possession_proof, statement)
    return key
