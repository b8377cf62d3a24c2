"""The blocks that stand where a trunk's feed-forward networks stood: they route, ask the pool, and add what it answers.

Guarantees: the router and the shared expert are the family's own modules; the shared expert is computed while the pool works;
experts of a row reach the pool in ascending order with float32 gates, whatever order the router found them in.

Letters: T tokens, K experts a token, H hidden size, E slices of a dense layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .families import FamilyAdapter
from .step import current


class RoutedBlock(nn.Module):
    """A MoE block whose experts are in the pool."""

    def __init__(self, adapter: FamilyAdapter, layer: int, block: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.adapter = adapter
        self.block = block

    def forward(self, hidden: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, None]:
        """[1, T, H] in and out; with a second value where the family's decoder layer expects one."""
        step = current()
        rows = hidden[0]  # [T, H]
        gates, experts = self._route(rows)  # [T, K]
        experts, order = experts.sort(dim=-1)
        gates = gates.gather(-1, order).float()
        if self.adapter.scales_input:
            scaled = (rows[:, None] * gates[..., None].to(rows.dtype)).flatten(0, 1)  # [T * K, H]
            future = step.pool.submit(
                self.layer, scaled, experts.reshape(-1, 1), torch.ones(len(scaled), 1), step.tally
            )
        else:
            future = step.pool.submit(self.layer, rows, experts, gates, step.tally)
        shared = self._shared(rows)
        routed = future.result()
        if self.adapter.scales_input:
            routed = routed.view(*gates.shape, -1).sum(dim=1)
        answer = routed.to(hidden.dtype)
        if shared is not None:
            answer = answer + shared
        answer = answer[None]
        return (answer, None) if self.adapter.returns_pair else answer

    def _route(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.adapter.route is not None:
            return self.adapter.route(self.block, rows)
        _, gates, experts = getattr(self.block, self.adapter.router)(rows)
        return gates, experts

    def _shared(self, rows: torch.Tensor) -> torch.Tensor | None:
        if self.adapter.shared is None:
            return None
        shared: Any = getattr(self.block, self.adapter.shared)
        if shared is None:
            return None
        answer: torch.Tensor = shared(rows)
        if self.adapter.shared_gate is not None:
            answer = F.sigmoid(getattr(self.block, self.adapter.shared_gate)(rows)) * answer
        return answer


class SlicedBlock(nn.Module):
    """A dense feed-forward whose slices are in the pool: all of them are active, with gate 1."""

    def __init__(self, layer: int, slices: int) -> None:
        super().__init__()
        self.layer = layer
        self._experts = torch.arange(slices)[None]  # [1, E]
        self._gates = torch.ones(1, slices)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[1, T, H] in and out."""
        step = current()
        rows = hidden[0]  # [T, H]
        count = len(rows)
        future = step.pool.submit(
            self.layer, rows, self._experts.expand(count, -1), self._gates.expand(count, -1), step.tally
        )
        return future.result().to(hidden.dtype)[None]
