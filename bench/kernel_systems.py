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
from ..kernels.torch_expert import expert_forward

MOST_EXPERTS = 8
"""Experts of one call: as many as the models have active for a token, or fewer where they are large."""
_ALIGNMENT = 4096
Run = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]
"""(number of the call, rows [R, H] bfloat16, gates [R] float32) to [R, H] float32."""


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
    def fill(cls, spec: ExpertSpec, buffer: npt.NDArray[np.uint8]) -> WorkingSet:
        """Fills a buffer with as many copies of a random expert as fit; one has to."""
        data = np.frombuffer(expert_bytes(spec), np.uint8)
        step = -(-data.size // _ALIGNMENT) * _ALIGNMENT
        starts = range(0, buffer.size - step + 1, step)
        for start in starts:
            buffer[start : start + data.size] = data
        experts = tuple(Expert.load(spec, buffer[start : start + data.size].data) for start in starts)
        return cls(spec, experts, buffer)

    @property
    def together(self) -> int:
        """Experts of one call."""
        return max(1, min(MOST_EXPERTS, len(self.experts) // 2))

    def first_of_call(self, call: int) -> int:
        """Which expert a call begins with."""
        return call % (len(self.experts) // self.together) * self.together

    def of_call(self, call: int) -> tuple[Expert, ...]:
        """The experts that a call computes."""
        first = self.first_of_call(call)
        return self.experts[first : first + self.together]

    def groups(self, call: int, gates: torch.Tensor) -> list[Group]:
        """The same with all rows to each of them."""
        rows = torch.arange(gates.numel())
        return [Group(expert, rows, gates) for expert in self.of_call(call)]


def expert_bytes(spec: ExpertSpec) -> bytes:
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


def systems(work: WorkingSet, native: bool) -> dict[str, Run]:
    """The ways by name: what Folkmoot does, its native kernels alone, torch alone, and for 16-bit weights the plain ways to
    write it in torch."""
    spec = work.spec

    def ours(call: int, rows: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        return feed_forward(work.groups(call, gates), rows)

    def natively(call: int, rows: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        output = torch.zeros(rows.shape)
        add_feed_forward(spec, work.groups(call, gates), rows, output)
        return output

    def by_torch(call: int, rows: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        output = torch.zeros(rows.shape)
        for expert in work.of_call(call):
            output.addcmul_(expert_forward(expert, rows).float(), gates.unsqueeze(1))
        return output

    found: dict[str, Run] = {"folkmoot": ours}
    if native:
        found["native"] = natively
    if spec.format.quantized:
        found["torch"] = by_torch
    else:
        found["linear"] = plain_linear(work)
    if spec.format is WeightFormat.BFLOAT16:
        found["grouped_mm"] = grouped(work)
    return found


def plain_linear(work: WorkingSet) -> Run:
    """Three calls of `F.linear` for each expert."""

    def run(call: int, rows: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        output = torch.zeros(rows.shape)
        for expert in work.of_call(call):
            gate, up, down = (expert.weights[role] for role in ("gate", "up", "down"))
            inputs = rows.to(gate.dtype)
            inner = F.silu(F.linear(inputs, gate)) * F.linear(inputs, up)
            output.addcmul_(F.linear(inner, down).float(), gates.unsqueeze(1))
        return output

    return run


def grouped(work: WorkingSet) -> Run:
    """Three calls of `grouped_mm` for all experts."""
    spec, size = work.spec, work.spec.hidden * work.spec.intermediate
    step = -(-spec.expert_bytes // _ALIGNMENT) * _ALIGNMENT // 2
    everything = torch.frombuffer(work.buffer, dtype=torch.bfloat16)

    def run(call: int, rows: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        first, count = work.first_of_call(call) * step, work.together
        wide, tall = (
            (spec.hidden, spec.intermediate, spec.hidden),
            (spec.intermediate, spec.hidden, spec.intermediate),
        )
        gate = everything.as_strided((count, *wide[:2]), (step, 1, wide[2]), first)
        up = everything.as_strided((count, *wide[:2]), (step, 1, wide[2]), first + size)
        down = everything.as_strided((count, *tall[:2]), (step, 1, tall[2]), first + 2 * size)
        inputs = rows.repeat(count, 1)
        ends = torch.arange(1, count + 1, dtype=torch.int32) * rows.shape[0]
        inner = F.silu(F.grouped_mm(inputs, gate, offs=ends)) * F.grouped_mm(inputs, up, offs=ends)
        answers = F.grouped_mm(inner, down, offs=ends).float().view(count, *rows.shape)
        return (answers * gates.unsqueeze(1)).sum(0)

    return run


def make_spec(shape: tuple[int, int], form: WeightFormat) -> ExpertSpec:
    """An expert of a shape (H, I) in a format, as most families lay it out."""
    return ExpertSpec(*shape, form, Layout.SEPARATE)
