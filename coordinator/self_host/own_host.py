"""The coordinator as a host of experts: whoever waits for an answer computes this part of it.

Guarantees: what it computes is what a node would, by the same kernels, from the bytes that the manifest names; nothing is sent,
signed or audited, for the coordinator trusts itself; the thread that waits for the nodes does the work meanwhile, with as many
threads as the trunk's products have, so that it takes nothing from the step that it is for. An expert that was let go is still right
for the calls that were planned with it. All methods may be called from any thread.

Letters: R rows, H hidden size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ...ids import ExpertKey, NodeId
from ...kernels.backend import Backend, choose_backend
from ...kernels.feed_forward import Group
from ...models.mapped_experts import MappedExperts
from ..dispatch.choice import HostEstimate
from ..dispatch.pairs import Pairs
from ..hub.pace import Pace


@dataclass(slots=True, eq=False)
class _Computation:
    """What is being computed, as `Pace` counts work."""

    work: float
    reserved_s: float = 0.0
    service_s: float = 0.0


class OwnHost:
    """Computes with the coordinator's own experts.

    Attributes:
        node: The coordinator's key, as an id: what placement calls it.
    """

    def __init__(
        self,
        node: NodeId,
        experts: MappedExperts,
        backend: Backend | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = node
        self._experts = experts
        self._backend = backend or choose_backend()
        self._clock = clock
        self._pace = Pace()

    def estimate(self) -> HostEstimate:
        """What is believed of it right now: it is here, and its speed was measured like any other's."""
        return replace(self._pace.estimate(self._clock()), here=True)

    def take(self, layer: int, pairs: Pairs) -> list[Group]:
        """What is to be computed for some pairs, with the experts as they are now."""
        return [
            Group(self._experts.expert(ExpertKey(layer, expert)), rows, gates)
            for expert, rows, gates in pairs.by_expert
        ]

    def compute(self, groups: Sequence[Group], hidden: torch.Tensor, work: float) -> torch.Tensor:
        """[R, H] float32: per row of `hidden` [R, H], the gated sum over the groups; `work` is `expert_work` of all of them."""
        computation = _Computation(work)
        self._pace.reserve(computation)
        begun_s = self._clock()
        try:
            answer = self._backend.feed_forward(groups, hidden)
            now_s = self._clock()
            computation.service_s = now_s - begun_s
            self._pace.served(computation, now_s)
        finally:
            self._pace.release(computation)
        return answer
