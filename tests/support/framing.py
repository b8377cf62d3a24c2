"""A lying coordinator's evidence against an honest node.

Guarantees: it is complete and well signed, and says what the kernels that are asked answered; nothing in it is false but the accusation.

Letters: n rows, H hidden size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
import torch

from folkmoot.kernels.expert import Expert
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.torch_expert import expert_forward
from folkmoot.protos.codec import raw_bytes, wire_dtype
from folkmoot.trust.audit_statements import VerdictKind, VerdictStatement
from folkmoot.trust.evidence import Evidence
from folkmoot.trust.keys import Identity
from folkmoot.trust.signed_frame import StatedRouting
from folkmoot.trust.stated_tensors import StatedTensor, StatedType
from folkmoot.trust.statements import ResultStatement, TaskStatement, manifest_statement

Kernels = Callable[[Expert, torch.Tensor], torch.Tensor]
COORDINATOR, NODE = Identity(b"\1" * 32), Identity(b"\2" * 32)


def by_kernels(expert: Expert, rows: torch.Tensor) -> torch.Tensor:
    """What the kernels of this machine answer to rows [n, H]: [n, H] float32."""
    return feed_forward([Group(expert, torch.arange(len(rows)), torch.ones(len(rows)))], rows)


def row_by_row(expert: Expert, rows: torch.Tensor) -> torch.Tensor:
    """The same, one row at a time."""
    return torch.cat([by_kernels(expert, rows[place : place + 1]) for place in range(len(rows))])


def by_torch(expert: Expert, rows: torch.Tensor) -> torch.Tensor:
    """What torch alone answers."""
    return expert_forward(expert, rows).float()


KERNELS: Mapping[str, Kernels] = {"kernels": by_kernels, "row by row": row_by_row, "torch": by_torch}


def accusation(
    manifest: bytes, layer: int, expert: int, rows: torch.Tensor, signed: torch.Tensor
) -> Evidence:
    """Evidence that what a node signed for rows [n, H] of one expert is wrong."""
    count, digest = len(rows), hashlib.sha256(manifest).digest()
    routing = StatedRouting(
        np.full(count, expert, "<i4").tobytes(),
        np.arange(count, dtype="<i4").tobytes(),
        np.ones(count, "<f4").tobytes(),
    )
    shape = (count, rows.shape[1])
    sent = StatedTensor(StatedType(wire_dtype(rows.dtype)), shape, bytes(raw_bytes(rows.contiguous())))
    output = StatedTensor(StatedType.FLOAT32, shape, bytes(raw_bytes(signed.contiguous())))
    task = TaskStatement(
        COORDINATOR.public,
        NODE.public,
        b"s" * 32,
        1,
        digest,
        "float32-accumulate/1",
        layer,
        count,
        shape[1],
        routing.digest(),
        sent.digest(),
        5000,
    )
    result = ResultStatement(task.digest(), output.digest(), 0)
    verdict = VerdictStatement(
        COORDINATOR.public,
        NODE.public,
        digest,
        task.digest(),
        output.digest(),
        VerdictKind.WRONG,
        1_000_000,
        7_000,
        1,
    )
    return Evidence(
        task,
        result,
        NODE.sign(result.encode()),
        sent,
        routing,
        output,
        COORDINATOR.sign(manifest_statement(digest)),
        verdict,
        COORDINATOR.sign(verdict.encode()),
    )
