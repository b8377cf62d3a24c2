"""What all links of one node share, however many coordinators it has: folder, key, experts on disk, processor and rates.

Guarantees: one product is computed at a time, with the threads that the contributor lends, whichever link it is for; downloads of
all links together keep within one rate, and so do uploads; sources of experts are known to all. `close` gives the state folder up.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import FolkmootError
from ..kernels.backend import Backend, choose_backend
from ..kernels.expert import Expert
from ..kernels.feed_forward import Group
from ..kernels.first_products import FirstProducts
from ..trust.keys import Identity
from .rate_limit import RateLimit
from .settings import NodeSettings
from .state import StateFolder
from .store import ExpertStore
from .weights import Weights


class TakingTurns:
    """A backend for several threads, one product after another."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._turn = threading.Lock()

    def describe(self) -> str:
        """One phrase for a log line."""
        return self._backend.describe()

    def prepare(self, expert: Expert) -> None:
        """Readies an expert that nobody but the caller has seen yet; takes no turn."""
        self._backend.prepare(expert)

    def feed_forward(
        self, groups: Sequence[Group], hidden: torch.Tensor, first: FirstProducts | None = None
    ) -> torch.Tensor:
        """What `kernels.feed_forward.feed_forward` does, once it is this caller's turn."""
        with self._turn:
            return self._backend.feed_forward(groups, hidden, first)


@dataclass(frozen=True)
class Premises:
    """One node's, while it runs."""

    state: StateFolder
    identity: Identity
    store: ExpertStore
    backend: Backend
    weights: Weights
    uploads: RateLimit

    @classmethod
    def open(cls, settings: NodeSettings) -> Premises:
        """Locks the state folder, and makes a key on the first call ever.

        Raises:
            StateError: when the state folder cannot be used, or another node uses it.
            TrustError: when the node's key file is damaged.
            UsageError: when a setting names a source of weights that is none.
        """
        state = StateFolder(settings.state_dir)
        try:
            identity = state.identity()
            weights = Weights(settings, identity, RateLimit(settings.download_bytes_per_s))
        except FolkmootError:
            state.close()
            raise
        backend = TakingTurns(choose_backend())
        return cls(
            state,
            identity,
            ExpertStore(state.experts, settings.disk_bytes, backend.prepare),
            backend,
            weights,
            RateLimit(settings.upload_bytes_per_s),
        )

    async def close(self) -> None:
        """Ends all connections to sources and gives the folder up; closing twice is harmless."""
        await self.weights.close()
        self.state.close()
