"""One audit: the challenge that goes out, and how its opening is read.

Guarantees: a question is about a result whose signature has been checked and is kept; its nonce is new; an opening exists
for us only with the dtype and shape that were asked for and with the node's signature over exactly its bytes and this
challenge.

Letters: r rows asked for, P pairs of these, H hidden size, I intermediate size.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ...kernels.formats import DTYPES, ExpertSpec, Layout
from ...models.manifest import Manifest
from ...protos.codec import decode_tensor, encode_tensor, raw_bytes, wire_dtype
from ...protos.folkmoot.v1 import link_pb2
from ...protos.limits import NONCE_BYTES
from ...trust.audit_statements import ChallengeStatement, OpeningKind, OpeningStatement, rows_digest
from ...trust.expert_arithmetic import Doubles, Floats
from ...trust.residuals import OpenedExpert
from ...trust.statements import tensor_digest
from ..dispatch.challenge import Opened, SentChallenge
from ..dispatch.verified_result import VerifiedResult
from .selection import Selection


@dataclass(eq=False)
class Question:
    """What is asked about one result.

    Attributes:
        verified: The result.
        selection: The rows.
        kind: How they are to be opened.
        statement: The challenge.
    """

    verified: VerifiedResult
    selection: Selection
    kind: OpeningKind
    statement: ChallengeStatement

    @classmethod
    def about(cls, verified: VerifiedResult, selection: Selection, kind: OpeningKind) -> Question:
        """Asks for the selected rows of a result."""
        task = verified.task
        statement = ChallengeStatement(
            coordinator=task.coordinator,
            node=task.node,
            session=task.session,
            sequence=task.sequence,
            result=hashlib.sha256(verified.statement.encode()).digest(),
            rows=rows_digest([int(row) for row in selection.rows]),
            kind=kind,
            nonce=secrets.token_bytes(NONCE_BYTES),
        )
        return cls(verified, selection, kind, statement)

    @cached_property
    def hidden(self) -> torch.Tensor:
        """[r, H] the rows asked for, as they were sent."""
        return self.verified.hidden.index_select(0, torch.from_numpy(self.selection.rows))

    @cached_property
    def inputs(self) -> Doubles:
        """[r, H] the same as numbers."""
        return self.hidden.double().numpy()

    @cached_property
    def output(self) -> Doubles:
        """[r, H] what the node signed for them."""
        return signed_output(self.verified)[self.selection.rows].astype(np.float64)

    def message(self, deadline_s: float) -> link_pb2.Challenge:
        """What goes on the wire."""
        pairs, statement = self.selection.pairs, self.statement
        return link_pb2.Challenge(
            sequence=statement.sequence,
            result=statement.result,
            kind=int(self.kind),
            nonce=statement.nonce,
            layer=self.verified.task.layer,
            hidden=encode_tensor(self.hidden),
            experts=encode_tensor(torch.from_numpy(pairs.experts)),
            rows=encode_tensor(torch.from_numpy(pairs.rows)),
            asked=[int(row) for row in self.selection.rows],
            deadline_ms=int(1000 * deadline_s),
        )

    def challenge(self, deadline_s: float, on_end: Callable[[Opened], None]) -> SentChallenge:
        """The same as a link takes it; `on_end` is told what came of it."""
        return SentChallenge(self.message(deadline_s), len(self.selection.rows), deadline_s, on_end)

    def read(self, opening: link_pb2.Opening, spec: ExpertSpec, manifest: Manifest) -> list[OpenedExpert]:
        """What the node opened, expert by expert. Raw, it may come in the model's type, if results are computed from what was
        rounded to it, or in float32: whatever came is held against the limits of raw openings, which the former set.

        Args:
            opening: What came.
            spec: Of the layer's experts.
            manifest: The model's.

        Raises:
            TensorError: when a tensor has another dtype, shape or length than was asked for.
            SignatureError: when the signature is missing, or not the node's over this opening.
        """
        unrounded = self.kind is OpeningKind.TIGHT or opening.up.dtype == wire_dtype(torch.float32)
        dtype = torch.float32 if unrounded else DTYPES[manifest.dtype]
        shape = (len(self.selection.pairs), spec.intermediate)
        cap = shape[0] * shape[1] * dtype.itemsize
        gated = spec.layout is not Layout.UNGATED
        gate_shape = shape if gated else (0, 0)
        gate = decode_tensor(opening.gate, dtype=dtype, shape=gate_shape, max_bytes=cap, what="gate")
        up = decode_tensor(opening.up, dtype=dtype, shape=shape, max_bytes=cap, what="up")
        signed = OpeningStatement(
            self.statement.digest(),
            tensor_digest(opening.gate.dtype, gate.shape, raw_bytes(gate)),
            tensor_digest(opening.up.dtype, up.shape, raw_bytes(up)),
        )
        self.verified.host.key.verify(opening.signature, signed.encode())
        gates, ups = (gate.float().numpy() if gated else None), up.float().numpy()
        return self._split(gates, ups)

    def _split(self, gate: Floats | None, up: Floats) -> list[OpenedExpert]:
        opened, start = [], 0
        for part in self.selection.by_expert:
            end = start + len(part.rows)
            opened.append(OpenedExpert(part, None if gate is None else gate[start:end], up[start:end]))
            start = end
        return opened


def signed_output(verified: VerifiedResult) -> Floats:
    """[R, H] float32: the output that the node signed."""
    return np.frombuffer(verified.result.output.data, "<f4").reshape(tuple(verified.result.output.shape))
