"""The ways to compute experts that `folkmoot-bench kernels` compares, over weights far larger than the caches.

Guarantees: each way computes the same thing, the gated sum of a call's experts for each of the rows; successive calls take the
next experts of the working set, so that no weight is read twice before all have been.

Letters: R rows, H hidden size, I intermediate size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ..kernels.expert import Expert
from ..kernels.feed_forward import Group, feed_forward
from ..kernels.formats import ExpertSpec, Layout, WeightFormat
from ..kernels.native_feed_forward import add_feed_forward
from ..kernels.quantize import dequantize, quantize
from ..kernels.threads import zeros_like
from ..kernels.torch_expert import expert_forward

_ALIGNMENT = 4096


@dataclass(frozen=True)
class Call:
    """What one call computes: experts of the working set that lie side by side, each on all rows.

    Attributes:
        first: The first expert.
        experts: They themselves.
        rows: [R, H] bfloat16.
        gates: [R] float32.
        groups: The same as the kernels take it.
    """

    first: int
    experts: tuple[Expert, ...]
    rows: torch.Tensor
    gates: torch.Tensor
    groups: tuple[Group, ...]


Run = Callable[[Call], torch.Tensor]
"""Computes a call: [R, H] float32."""


@dataclass(frozen=True)
class WorkingSet:
    """Experts of one form, one after the other in one buffer; all are copies of the same one.

    Attributes:
        spec: Their form.
        experts: Views of the buffer.
        buffer: The memory, in bytes.
    """

    spec: ExpertSpec
    experts: tuple[Expert, ...]
    buffer: npt.NDArray[np.uint8]

    @classmethod
    def fill(cls, spec: ExpertSpec, buffer: npt.NDArray[np.uint8], packed: bool) -> WorkingSet:
        """Fills a buffer with as many copies of a random expert as fit; one has to. They lie as they are published, or `packed` for
        this processor as a node packs them."""
        data = np.frombuffer(_random_expert(spec), np.uint8)
        step = -(-data.size // _ALIGNMENT) * _ALIGNMENT
        starts = range(0, buffer.size - step + 1, step)
        for start in starts:
            buffer[start : start + data.size] = data
        experts = tuple(Expert.load(spec, buffer[start : start + data.size].data) for start in starts)
        for expert in experts:
            if packed:
                expert.pack()
            _ = expert.native  # what is found out once in an expert's life is no part of a call
        return cls(spec, experts, buffer)

    def calls(self, count: int, rows: torch.Tensor, gates: torch.Tensor) -> list[Call]:
        """Calls of `count` experts each, or fewer where they are large, that together take each once."""
        count = max(1, min(count, len(self.experts) // 2))
        every = torch.arange(rows.shape[0])
        found = []
        for first in range(0, len(self.experts) - count + 1, count):
            experts = self.experts[first : first + count]
            groups = tuple(Group(expert, every, gates) for expert in experts)
            found.append(Call(first, experts, rows, gates, groups))
        return found


def _random_expert(spec: ExpertSpec) -> bytes:
    """The canonical bytes of a random expert whose weights are of the size that trained ones have."""
    generator = torch.Generator().manual_seed(1)
    parts: list[torch.Tensor] = []
    for rows, columns in ((spec.intermediate, spec.hidden),) * 2 + ((spec.hidden, spec.intermediate),):
        weights = torch.randn(rows, columns, generator=generator) / columns**0.5
        match spec.format:
            case WeightFormat.FP8_BLOCK:
                squares = (-(-rows // 128), -(-columns // 128))
                parts += [(weights * 2000).to(torch.float8_e4m3fn), torch.full(squares, 1 / 2000)]
            case WeightFormat.MXFP4:
                codes = torch.randint(0, 256, (rows, columns // 2), generator=generator, dtype=torch.uint8)
                parts += [codes, torch.full((rows, columns // 32), 121, dtype=torch.uint8)]
            case _:
                matrix = quantize(weights, spec.format)
                parts += [part for part in (matrix.values, matrix.scales, matrix.minima) if part is not None]
    return b"".join(part.contiguous().view(torch.uint8).numpy().tobytes() for part in parts)


def in_float64(spec: ExpertSpec, expert: Expert, rows: torch.Tensor) -> torch.Tensor:
    """One expert's ungated answer to rows [R, H], computed in float64."""
    gate, up, down = (dequantize(expert.matrices[role]).double() for role in ("gate", "up", "down"))
    wide = rows.double()
    return (F.silu(wide @ gate.T) * (wide @ up.T)) @ down.T


def our_systems(native: bool) -> dict[str, Run]:
    """The ways by name that take packed experts: what Folkmoot does, and its native kernels alone."""

    def ours(call: Call) -> torch.Tensor:
        return feed_forward(call.groups, call.rows)

    def natively(call: Call) -> torch.Tensor:
        output = zeros_like(call.rows)
        add_feed_forward(call.groups, call.rows, output)
        return output

    return {"folkmoot": ours, "native": natively} if native else {"folkmoot": ours}


def torch_systems(work: WorkingSet) -> dict[str, Run]:
    """The ways by name that take experts as they are published: torch alone, or for float weights the plain ways to write it in
    torch."""
    spec = work.spec

    def by_torch(call: Call) -> torch.Tensor:
        output = torch.zeros(call.rows.shape)
        for expert in call.experts:
            output.addcmul_(expert_forward(expert, call.rows).float(), call.gates.unsqueeze(1))
        return output

    found: dict[str, Run] = {"torch": by_torch} if spec.format.quantized else {"linear": plain_linear()}
    if spec.format is WeightFormat.BFLOAT16:
        found["grouped_mm"] = grouped(work)
    return found


def plain_linear() -> Run:
    """Three calls of `F.linear` for each expert."""

    def run(call: Call) -> torch.Tensor:
        output = torch.zeros(call.rows.shape)
        for expert in call.experts:
            gate, up, down = (expert.weights[role] for role in ("gate", "up", "down"))
            inputs = call.rows.to(gate.dtype)
            inner = F.silu(F.linear(inputs, gate)) * F.linear(inputs, up)
            output.addcmul_(F.linear(inner, down).float(), call.gates.unsqueeze(1))
        return output

    return run


def grouped(work: WorkingSet) -> Run:
    """Three calls of `grouped_mm` for all experts."""
    spec, size = work.spec, work.spec.hidden * work.spec.intermediate
    step = -(-spec.expert_bytes // _ALIGNMENT) * _ALIGNMENT // 2
    everything = torch.frombuffer(work.buffer, dtype=torch.bfloat16)

    def run(call: Call) -> torch.Tensor:
        first, count, rows = call.first * step, len(call.experts), call.rows
        into, out = (count, spec.hidden, spec.intermediate), (count, spec.intermediate, spec.hidden)
        gate = everything.as_strided(into, (step, 1, spec.hidden), first)
        up = everything.as_strided(into, (step, 1, spec.hidden), first + size)
        down = everything.as_strided(out, (step, 1, spec.intermediate), first + 2 * size)
        inputs = rows.repeat(count, 1)
        ends = torch.arange(1, count + 1, dtype=torch.int32) * rows.shape[0]
        inner = F.silu(F.grouped_mm(inputs, gate, offs=ends)) * F.grouped_mm(inputs, up, offs=ends)
        answers = F.grouped_mm(inner, down, offs=ends).float().view(count, *rows.shape)
        return (answers * call.gates.unsqueeze(1)).sum(0)

    return run


def make_spec(shape: tuple[int, int], form: WeightFormat) -> ExpertSpec:
    """An expert of a shape (H, I) in a format, as most families lay it out."""
    return ExpertSpec(*shape, form, Layout.SEPARATE)
