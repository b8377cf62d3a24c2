"""A node that learns about the secret projections, or tries to: its results are right, and some of its openings are off by a little.

Guarantees: what it opens is off by so large a part of its own size, in a direction that is drawn; its signature over that is good.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from folkmoot.protos.codec import decode_tensor, encode_tensor, raw_bytes, wire_dtype
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.trust.audit_statements import ChallengeStatement, OpeningStatement, rows_digest
from folkmoot.trust.statements import tensor_digest

from .asked_node import AskedNode

_TYPES = {wire_dtype(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}


class ProbingNode(AskedNode):
    """One such node.

    Attributes:
        off: By how much of its size the next openings are off.
    """

    def __init__(self, *arguments: Any, off: float = 0.0, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.off = off
        self._draws = np.random.default_rng(7)

    def _open(self, asked: link_pb2.Challenge) -> link_pb2.Opening:
        opening = super()._open(asked)
        if not self.off:
            return opening
        up = decode_tensor(
            opening.up,
            dtype=_TYPES[opening.up.dtype],
            shape=(None, None),
            max_bytes=1 << 30,
            what="up",
        )
        noise = torch.from_numpy(self._draws.standard_normal(up.shape))
        by = self.off * up.double().norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
        up = (up.double() + by * noise).to(up.dtype)
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
        gate_digest = _digest(opening.gate)
        statement = OpeningStatement(
            challenge.digest(),
            gate_digest,
            tensor_digest(wire_dtype(up.dtype), up.shape, raw_bytes(up)),
        )
        return link_pb2.Opening(
            nonce=asked.nonce,
            gate=opening.gate,
            up=encode_tensor(up),
            signature=self.identity.sign(statement.encode()),
        )


def _digest(tensor: Any) -> bytes:
    return tensor_digest(tensor.dtype, tuple(tensor.shape), tensor.data)
