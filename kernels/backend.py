"""What computes experts on this machine: the one place that chooses.

Guarantees: a machine with a CUDA device runs experts there, through Triton's kernels where Triton is installed, and through
torch's grouped product where it is not; every other machine runs them on its processor, natively where the kernels were
built. Choosing imports nothing that is not used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Protocol

import torch

from .expert import Expert
from .feed_forward import Group, feed_forward
from .first_products import FirstProducts
from .native_library import describe


class Backend(Protocol):
    """Something that runs experts."""

    def describe(self) -> str:
        """One phrase for a log line: what computes here."""
        ...

    def prepare(self, expert: Expert) -> None:
        """Readies an expert that nobody but the caller has seen yet, in its own memory and for good."""
        ...

    def feed_forward(
        self, groups: Sequence[Group], hidden: torch.Tensor, first: FirstProducts | None = None
    ) -> torch.Tensor:
        """What `kernels.feed_forward.feed_forward` does."""
        ...


class Processor:
    """Experts on the CPU."""

    def describe(self) -> str:
        """One phrase for a log line."""
        return describe()

    def prepare(self, expert: Expert) -> None:
        """Packs its weights for this processor, where that makes it faster and their memory may be written."""
        expert.pack()

    def feed_forward(
        self, groups: Sequence[Group], hidden: torch.Tensor, first: FirstProducts | None = None
    ) -> torch.Tensor:
        """What `kernels.feed_forward.feed_forward` does."""
        return feed_forward(groups, hidden, first)


def choose_backend() -> Backend:
    """The best backend that this machine has."""
    if not torch.cuda.is_available():
        return Processor()
    device = torch.device("cuda")
    if importlib.util.find_spec("triton") is None:
        from .gpu.grouped_mm import GroupedMm

        return GroupedMm(device)
    from .gpu.feed_forward import TritonFeedForward

    return TritonFeedForward(device)
