"""The expert feed-forward through `torch.nn.functional.grouped_mm`: the simple path, and the measure of the other.

Guarantees: sums of products are float32, as in the kernels of torch; gate, up, their product and the output are rounded at
most once each. Quantized weights are dequantized to float32 when an expert is first used, and take float32's memory.

Letters: R rows, P pairs of row and expert, E experts, H hidden size, I intermediate size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..activation import activate
from ..by_rows import biased, by_rows
from ..expert import Expert
from ..formats import DTYPES, ExpertSpec
from ..quantize import dequantize
from .resident import Resident, device_memory

if TYPE_CHECKING:
    from ..feed_forward import Group
    from ..first_products import FirstProducts

MULTIPLE = 8
"""Inputs that grouped_mm takes at once: 16 bytes of bfloat16. Matrices are padded with zeros to a multiple of it."""


class GroupedMm:
    """Runs experts on one device. May be called from several threads."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._experts: Resident[dict[str, torch.Tensor]] = Resident(self._load)

    def describe(self) -> str:
        """One phrase for a log line."""
        return f"torch.nn.functional.grouped_mm on {self.device}"

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
            DeviceMemoryError: the GPU's memory is full.
        """
        groups = [group for group in groups if group.rows.numel()]
        output = torch.zeros(hidden.shape, dtype=torch.float32)
        if not groups:
            return output
        spec = groups[0].expert.spec
        counts = torch.tensor([group.rows.numel() for group in groups])
        with device_memory(self.device):
            experts = [self._experts.of(group.expert) for group in groups]
            compute = torch.promote_types(hidden.dtype, _stored_type(spec))
            rows = hidden.to(self.device, compute)[
                torch.cat([group.rows for group in groups]).to(self.device)
            ]
            answer = self._answer(spec, experts, rows, counts).float()  # [P, H]
            output = output.to(self.device)
            for group, part in zip(groups, torch.split(answer, counts.tolist()), strict=True):
                gates = group.gates.float().to(self.device).unsqueeze(1)
                output.index_add_(0, group.rows.to(self.device), part * gates)
            return output.cpu()

    def _answer(
        self,
        spec: ExpertSpec,
        experts: Sequence[dict[str, torch.Tensor]],
        rows: torch.Tensor,
        counts: torch.Tensor,
    ) -> torch.Tensor:
        ends = counts.cumsum(0).int().to(self.device)  # [E]
        repeats = counts.to(self.device)

        def product(role: str, inputs: torch.Tensor) -> torch.Tensor:
            weights = torch.stack([expert[role] for expert in experts]).to(inputs.dtype)  # [E, N, K]
            answer = F.grouped_mm(_padded(inputs), weights.transpose(1, 2), offs=ends)  # [P, N]
            if biased(spec):
                bias = torch.stack([expert[f"{role}_bias"] for expert in experts]).repeat_interleave(
                    repeats, 0
                )
                answer = answer.float() + bias
            return answer

        gate = product("gate", rows) if "gate" in experts[0] else None  # [P, I]
        return product("down", activate(spec, gate, product("up", rows)).to(rows.dtype))

    def _load(self, expert: Expert) -> dict[str, torch.Tensor]:
        loaded = {}
        for role, (matrix, bias) in by_rows(expert).items():
            weights = dequantize(matrix) if expert.spec.format.quantized else matrix.values
            loaded[role] = _padded(weights).to(self.device)
            if bias is not None:
                loaded[f"{role}_bias"] = bias.float().to(self.device)
        return loaded


def _stored_type(spec: ExpertSpec) -> torch.dtype:
    return DTYPES.get(spec.dtype, torch.float32)


def _padded(matrix: torch.Tensor) -> torch.Tensor:
    return F.pad(matrix, (0, -matrix.shape[1] % MULTIPLE)).contiguous()
