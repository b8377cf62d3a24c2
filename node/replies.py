"""What a node says in answer to a frame or a challenge, as messages.

Guarantees: a refusal's text is bounded; an opening is signed over the bytes that it carries.
"""

from __future__ import annotations

import torch

from ..protos.codec import encode_tensor
from ..protos.folkmoot.v1 import link_pb2, tensor_pb2
from ..protos.limits import MAX_REASON, NONCE_BYTES
from ..trust.audit_statements import OpeningStatement
from ..trust.keys import Identity
from ..trust.statements import tensor_digest
from .challenges import Activations, Question
from .rows import Refused


def refused_frame(frame: link_pb2.Frame, refused: Refused) -> link_pb2.NodeMessage:
    """The refusal of a frame."""
    detail = refused.message[:MAX_REASON]
    return link_pb2.NodeMessage(
        refusal=link_pb2.Refusal(sequence=frame.sequence, reason=refused.reason, detail=detail)
    )


def refused_challenge(challenge: link_pb2.Challenge, refused: Refused) -> link_pb2.NodeMessage:
    """The refusal of a challenge; a nonce that is too long comes back cut."""
    return link_pb2.NodeMessage(
        opening=link_pb2.Opening(
            nonce=challenge.nonce[:NONCE_BYTES],
            refused=refused.message[:MAX_REASON],
            reason=refused.reason,
        )
    )


def signed_opening(
    identity: Identity, challenge: link_pb2.Challenge, question: Question, opened: Activations
) -> link_pb2.Opening:
    """An opening, rounded once to the type that the question asks for, and signed."""
    gate, up = _encoded(opened.gate, question.dtype), _encoded(opened.up, question.dtype)
    statement = OpeningStatement(
        challenge=question.challenge,
        gate=tensor_digest(gate.dtype, gate.shape, gate.data),
        up=tensor_digest(up.dtype, up.shape, up.data),
    )
    return link_pb2.Opening(
        nonce=challenge.nonce, gate=gate, up=up, signature=identity.sign(statement.encode())
    )


def _encoded(values: torch.Tensor, dtype: torch.dtype) -> tensor_pb2.Tensor:
    return encode_tensor(values.to(dtype))
