"""A lying coordinator: rows that are made so that an honest node's answer is far from the truth, and the evidence of it.

Guarantees: rows follow from the expert's weights and fixed seeds; evidence is complete and well signed, and says what the kernels that
are asked answered; nothing in it is false but the accusation.

Letters: n rows, H hidden size, I intermediate size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
import torch

from folkmoot.coordinator.audit.honest_openings import heavy_rows
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.torch_expert import expert_forward
from folkmoot.protos.codec import raw_bytes, wire_dtype
from folkmoot.trust.audit_statements import VerdictKind, VerdictStatement
from folkmoot.trust.evidence import Evidence
from folkmoot.trust.expert_arithmetic import Doubles, ExpertWeights
from folkmoot.trust.keys import Identity
from folkmoot.trust.signed_frame import StatedRouting
from folkmoot.trust.stated_tensors import StatedTensor, StatedType
from folkmoot.trust.statements import ResultStatement, TaskStatement, manifest_statement

COORDINATOR, NODE = Identity(b"\1" * 32), Identity(b"\2" * 32)
OF_EACH = 2

Rows = Callable[[ExpertWeights], Doubles]
Kernels = Callable[[Expert, torch.Tensor], torch.Tensor]


def usual(hidden: int, count: int = OF_EACH) -> Doubles:
    """Rows as they are in use."""
    return np.asarray(heavy_rows(count, hidden, 9, torch.float64).numpy())


def of_sizes(*sizes: float) -> Rows:
    """Rows in use, made larger or smaller by each of the factors."""
    return lambda weights: np.concatenate([usual(weights.up.shape[1]) * size for size in sizes])


def cancelling(*names: str) -> Rows:
    """Rows of which nearly everything cancels in some products: from a little more than in rows in use to all there is."""

    def rows(weights: ExpertWeights) -> Doubles:
        parts = [getattr(weights, name) for name in names if getattr(weights, name) is not None]
        matrix = np.concatenate([np.asarray(part, np.float64) for part in parts or [weights.up]])
        missing = np.linalg.svd(matrix)[2][len(matrix) :]
        assert len(missing), "a matrix that is wider than high leaves something out"
        left_out = np.random.default_rng(3).normal(size=(OF_EACH, len(missing))) @ missing
        base = usual(matrix.shape[1])
        return np.concatenate([left_out * 30, *(base + left_out * 10.0**power for power in range(8))])

    return rows


def outliers(weights: ExpertWeights) -> Doubles:
    """Rows whose groups of 32 inputs each have one that drowns the others."""
    parts = []
    for size in (30.0, 1e3, 1e5):
        rows = usual(weights.up.shape[1])
        rows[:, ::32] *= size
        parts.append(rows)
    return np.concatenate(parts)


ATTACKS: Mapping[str, Rows] = {
    "tiny": of_sizes(1e-4, 1e-7, 1e-10, 1e-14, 1e-17, 1e-18, 1e-19, 1e-20, 1e-22, 1e-25, 1e-30, 1e-38, 1e-40),
    "huge": of_sizes(1e3, 1e6, 1e10, 1e12, 1e15, 1e17, 1e18, 1e19, 1e20, 1e25, 1e30, 1e36),
    "cancelling in up": cancelling("up"),
    "cancelling in gate": cancelling("gate"),
    "cancelling in both": cancelling("gate", "up"),
    "outliers": outliers,
}
"""What was tried against honest nodes."""


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
