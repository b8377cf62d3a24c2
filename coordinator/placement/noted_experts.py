"""An expert pool that notes which experts work for the same rows, and hands every call on as it is.

Guarantees: the trunk cannot tell it from the pool behind it. It stands before the pool because only there a row's experts are seen
together: what a node answers names only those that the node has.
"""

from __future__ import annotations

import torch

from ...models.pool import ExpertFuture, ExpertPool, StepTally
from .usage import Usage


class NotedExperts:
    """An `ExpertPool`."""

    def __init__(self, pool: ExpertPool, usage: Usage) -> None:
        self._pool = pool
        self._usage = usage

    def submit(
        self,
        layer: int,
        hidden: torch.Tensor,
        expert_ids: torch.Tensor,
        gates: torch.Tensor,
        tally: StepTally,
    ) -> ExpertFuture:
        """Starts one layer's expert call; see `ExpertPool.submit`."""
        self._usage.note(layer, expert_ids.numpy())
        return self._pool.submit(layer, hidden, expert_ids, gates, tally)
