"""`LocalExperts`: the pool whose experts are in this process, mapped from the model's files.

Guarantees: a row's experts are summed in ascending order, so its answer does not depend on the order in which the router named
them. This is the oracle that every other pool is compared with. It does not check digests: it trusts the operator's own disk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..ids import ExpertKey
from ..kernels.feed_forward import Group, feed_forward
from .mapped_experts import MappedExperts
from .pool import ExpertFuture, StepTally
from .prepared import PreparedModel


class LocalExperts:
    """An `ExpertPool` in process. May be called from many threads at once."""

    def __init__(self, prepared: PreparedModel) -> None:
        self._experts = MappedExperts(prepared)

    def submit(
        self,
        layer: int,
        hidden: torch.Tensor,
        expert_ids: torch.Tensor,
        gates: torch.Tensor,
        tally: StepTally,
    ) -> ExpertFuture:
        """Takes one layer's rows; they are computed by the thread that asks for the result."""
        groups = [
            Group(self._experts.expert(ExpertKey(layer, expert)), rows, chosen)
            for expert, rows, chosen in by_expert(expert_ids, gates)
        ]
        return _LocalFuture(groups, hidden.clone(), tally)


def by_expert(expert_ids: torch.Tensor, gates: torch.Tensor) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    """Sorts a layer's (row, expert) pairs: for each expert, ascending, its rows, ascending, and their gates.

    Args:
        expert_ids: [T, K] int64.
        gates: [T, K] float32.
    """
    flat, order = expert_ids.flatten().sort(stable=True)  # [T * K]
    experts, counts = torch.unique_consecutive(flat, return_counts=True)
    sizes = counts.tolist()
    rows = torch.split(order // expert_ids.shape[1], sizes)
    chosen = torch.split(gates.flatten()[order], sizes)
    return list(zip(experts.tolist(), rows, chosen, strict=True))


class _LocalFuture:
    def __init__(self, groups: Sequence[Group], hidden: torch.Tensor, tally: StepTally) -> None:
        self._groups = groups
        self._hidden = hidden
        self._tally = tally

    def result(self) -> torch.Tensor:
        answer = feed_forward(self._groups, self._hidden)
        self._tally.layers += 1
        return answer
