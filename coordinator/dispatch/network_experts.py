"""The expert pool over the network.

Guarantees: `submit` never blocks on the network and never raises for a node's fault; what it returns is a `Flight`, whose
result is the same sum that `LocalExperts` would give, from verified results only, or from such as are verified when the step's tally is
settled. It may be called from any thread but the event loop's.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import torch

from ...errors import UsageError
from ...models.manifest import Manifest
from ...models.pool import StepTally
from ...protos.limits import MAX_PAIRS_PER_FRAME, rows_per_frame
from .aside import Aside
from .counters import DispatchCounters
from .directory import Directory
from .flight import Flight
from .hedging import Hedging
from .host import Host, SentFrame
from .pairs import PairsMemory
from .plan import FrameCaps
from .verified_result import RivalsWatcher, Watcher


@dataclass(frozen=True)
class DispatchSettings:
    """How frames are planned and how long they are waited for.

    Attributes:
        expert_wait_s: How long a call waits for a host of an expert to appear before it gives up.
        overload_pause_s: How long a node that is overloaded is left alone by the call that it refused.
        frame_cost_s: What one more frame costs the coordinator: encoding, TLS, digests.
        max_rows_per_frame: The most rows in one frame; the model's width may lower it.
        hedge_share: The most of all frames that may be second ones, sent because a first takes too long; 0 sends none.
        hedge_quantile: Which quantile of a host's recent times is usual for it; beyond it a frame takes too long.
        hedge_least_s: No frame takes too long before this.
    """

    expert_wait_s: float = 10.0
    overload_pause_s: float = 0.1
    frame_cost_s: float = 0.001
    max_rows_per_frame: int = 1024
    hedge_share: float = 0.05
    hedge_quantile: float = 0.98
    hedge_least_s: float = 0.05

    def __post_init__(self) -> None:
        if self.expert_wait_s <= 0 or self.overload_pause_s <= 0 or self.frame_cost_s <= 0:
            raise UsageError("dispatch times must be above zero", advice="give seconds above zero")
        if self.max_rows_per_frame < 1:
            raise UsageError(
                "a frame must carry at least one row", advice="give max_rows_per_frame 1 or more"
            )
        if not 0 <= self.hedge_share <= 0.5 or not 0.5 <= self.hedge_quantile < 1 or self.hedge_least_s <= 0:
            raise UsageError(
                "second frames cannot be sent so",
                advice="give a hedge_share of 0 to 0.5, a hedge_quantile of 0.5 to 1, and a time above zero",
            )


class NetworkExperts:
    """An `ExpertPool` whose experts are wherever the directory says."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        directory: Directory,
        manifest: Manifest,
        coordinator_key: bytes,
        counters: DispatchCounters,
        settings: DispatchSettings,
        watcher: Watcher | None = None,
        rivals_watcher: RivalsWatcher | None = None,
        unusable_watcher: Watcher | None = None,
    ) -> None:
        """`watcher` is handed every verified result, `rivals_watcher` each second answer beside the first, `unusable_watcher` what a
        node signed and nothing can be computed with."""
        self.directory = directory
        self.manifest = manifest
        self.coordinator_key = coordinator_key
        self.counters = counters
        self.settings = settings
        self.watcher = watcher
        self.rivals_watcher = rivals_watcher
        self.unusable_watcher = unusable_watcher
        self.hedging = Hedging(settings.hedge_share, settings.hedge_quantile, settings.hedge_least_s)
        self.aside = Aside()
        rows = min(settings.max_rows_per_frame, rows_per_frame(manifest.hidden))
        self.caps = FrameCaps(rows=rows, pairs=MAX_PAIRS_PER_FRAME)
        self._loop = loop
        self._routings = PairsMemory()

    def submit(
        self,
        layer: int,
        hidden: torch.Tensor,
        expert_ids: torch.Tensor,
        gates: torch.Tensor,
        tally: StepTally,
    ) -> Flight:
        """Starts one layer's expert call; see `ExpertPool.submit`."""
        pairs = None
        if expert_ids.numel():
            pairs = self._routings.pairs(expert_ids.numpy(), gates.detach().float().numpy())
        flight = Flight(self, layer, hidden.detach(), tally)
        if pairs is not None:
            flight.launch(pairs)
        return flight

    def send(self, frames: list[tuple[Host, SentFrame]]) -> None:
        """Hands frames to their links, with one wake-up of the event loop for all of them.

        Raises:
            RuntimeError: when the event loop has ended.
        """
        self._loop.call_soon_threadsafe(_send_all, frames)


def _send_all(frames: list[tuple[Host, SentFrame]]) -> None:
    for host, frame in frames:
        host.send(frame)
