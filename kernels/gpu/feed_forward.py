"""The expert feed-forward through the Triton kernels.

Guarantees: what it returns differs from the CPU's answer only by roundings that the arithmetic profile allows; each
row's outputs are summed in the order of the groups, so the same call gives the same bits.

Letters: R rows, H hidden size, I intermediate size, S slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from ..by_rows import biased
from ..formats import DTYPES, Activation, WeightFormat
from . import products
from .grouping import schedule
from .packing import Place, pack, packing
from .resident import Resident, device_memory

if TYPE_CHECKING:
    from ..expert import Expert
    from ..feed_forward import Group
    from ..first_products import FirstProducts

HEIGHT, WIDTH = 16, 64
"""Slots of a block, and outputs of one program."""

_FORMATS = {
    WeightFormat.FLOAT32: products.FLOAT32,
    WeightFormat.BFLOAT16: products.BFLOAT16,
    WeightFormat.FLOAT16: products.FLOAT16,
    WeightFormat.INT8: products.INT8,
    WeightFormat.INT8_CHANNEL: products.INT8_CHANNEL,
    WeightFormat.INT4: products.INT4,
    WeightFormat.FP8_BLOCK: products.FP8_BLOCK,
    WeightFormat.MXFP4: products.MXFP4,
}
_ACTIVATIONS = {
    Activation.SWIGLU: products.SWIGLU,
    Activation.GEGLU_TANH: products.GEGLU_TANH,
    Activation.CLAMPED_SWIGLU: products.CLAMPED_SWIGLU,
    Activation.RELU_SQUARED: products.RELU_SQUARED,
}
_TRITON_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
_NOWHERE = Place(0, 0, 0, 0)


class TritonFeedForward:
    """Runs experts on one GPU. May be called from several threads."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffers = Resident(lambda expert: pack(expert).to(device))

    def describe(self) -> str:
        """One phrase for a log line."""
        return f"Triton kernels on {self.device}"

    def prepare(self, expert: Expert) -> None:
        """Nothing: an expert goes to the device when it is first computed."""

    def feed_forward(
        self, groups: Sequence[Group], hidden: torch.Tensor, first: FirstProducts | None = None
    ) -> torch.Tensor:
        """Runs each group's rows through its expert and sums, for each row, the gated outputs.

        Args:
            groups: Rows by expert; all experts of one layer, so of one spec.
            hidden: [R, H] in the trunk's dtype.
            first: Stays empty: what is computed here is rounded, or not read back.

        Returns:
            [R, H] float32 in the CPU's memory; rows that no group names are zero.

        Raises:
            IndexError: a group names a row that does not exist.
            DeviceMemoryError: the GPU's memory is full.
        """
        groups = [group for group in groups if group.rows.numel()]
        if not groups:
            return torch.zeros(hidden.shape, dtype=torch.float32)
        with device_memory(self.device):
            return self._run(groups, hidden).cpu()

    def _run(self, groups: Sequence[Group], hidden: torch.Tensor) -> torch.Tensor:
        spec = groups[0].expert.spec
        places = packing(spec).places
        buffers = [self._buffers.of(group.expert) for group in groups]
        plan = schedule(groups, hidden.shape[0], HEIGHT)
        on = self.device
        addresses = torch.tensor([buffer.data_ptr() for buffer in buffers], dtype=torch.int64).to(on)
        blocks, slot_rows = plan.block_groups.to(on), plan.rows.to(on)
        compute = _compute_dtype(spec.format, hidden.dtype)
        rows = hidden.to(on).contiguous()
        slots, size, half = len(plan.rows), spec.hidden, spec.intermediate
        inner = torch.empty((slots, half), dtype=compute, device=on)  # [S, I]
        answer = torch.empty((slots, size), dtype=torch.float32, device=on)  # [S, H]
        output = torch.empty(hidden.shape, dtype=torch.float32, device=on)  # [R, H]
        shared = {
            "FORMAT": _FORMATS[spec.format],
            "COMPUTE": _dot_type(compute),
            "BIASED": biased(spec),
            "HEIGHT": HEIGHT,
            "WIDTH": WIDTH,
            "STEP": 32 if spec.format in (WeightFormat.INT8, WeightFormat.INT4, WeightFormat.MXFP4) else 64,
        }
        products.inner_kernel[(len(blocks), triton.cdiv(half, WIDTH))](
            rows, inner, addresses, blocks, slot_rows, size, half,
            *astuple(places.get("gate", _NOWHERE)), *astuple(places["up"]), spec.alpha, spec.limit,
            ACTIVATION=_ACTIVATIONS[spec.activation], **shared,
        )  # fmt: skip
        products.down_kernel[(len(blocks), triton.cdiv(size, WIDTH))](
            inner, answer, addresses, blocks, plan.gates.to(on), size, half,
            *astuple(places["down"]), **shared,
        )  # fmt: skip
        row_slots = plan.slots.to(on)
        products.sum_kernel[(len(row_slots), triton.cdiv(size, WIDTH))](
            answer, output, row_slots, size, row_slots.shape[1], WIDTH=WIDTH
        )
        return output


def _dot_type(compute: torch.dtype) -> tl.dtype:
    # Triton's interpreter multiplies the bits of bfloat16 as if they were whole numbers; in float32 it is right.
    interpreted = triton.knobs.runtime.interpret
    return tl.float32 if interpreted and compute == torch.bfloat16 else _TRITON_TYPES[compute]


def _compute_dtype(form: WeightFormat, rows: torch.dtype) -> torch.dtype:
    """The narrowest type that holds both the rows and the numbers that a format stores before they are scaled."""
    if form.quantized:
        # int8, 4 bits and e4m3 fit bfloat16's 8 bits of precision; float16 would lack the range for what lies between.
        return rows if rows == torch.bfloat16 else torch.float32
    return torch.promote_types(rows, DTYPES[form])
