"""How fast this processor computes experts for one row, against how fast it reads memory: the limit of all decoding.

Guarantees: takes about a second and no more memory than it is told; what is computed is thrown away.

Letters: E experts, H hidden size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from ...amounts import format_bytes
from ...kernels import native_library
from ...kernels.expert import Expert
from ...kernels.feed_forward import Group, feed_forward
from ...kernels.formats import ExpertSpec, Layout
from ...kernels.weight_memory import weight_memory
from .finding import Finding, fit, note

WORKING_SET_BYTES: Final = 256 << 20
"""Far more than any cache holds."""
AT_LEAST_S: Final = 0.4
WELL: Final = 0.5
"""The share of memory's speed at which experts are computed well."""


@dataclass(frozen=True)
class Speed:
    """Bytes of weights a second."""

    computed: float
    read: float

    def finding(self) -> Finding:
        """What it means."""
        share = self.computed / self.read
        says = (
            f"{format_bytes(self.computed)}/s of weights at one row, {share:.0%} of the {format_bytes(self.read)}/s "
            "that memory gives"
        )
        if share >= WELL:
            return fit("throughput", says)
        return note(
            "throughput",
            says,
            "look again when nothing else runs; if it stays so, look at the kernels and threads above",
        )


def measure(threads: int, working_set_bytes: int = WORKING_SET_BYTES) -> Speed:
    """Measures with so many threads.

    Raises:
        MemoryError: when there is not so much memory.
    """
    spec = ExpertSpec(2048, 1024, "bfloat16", Layout.SEPARATE)
    count = max(2, working_set_bytes // spec.expert_bytes)
    memory = weight_memory(count * spec.expert_bytes)
    # Values do not matter for speed, as long as they are none that slow arithmetic down: all are 1/128.
    np.frombuffer(memory, np.uint16)[:] = 0x3C00
    experts = [
        Expert.load(spec, memory[start : start + spec.expert_bytes])
        for start in range(0, count * spec.expert_bytes, spec.expert_bytes)
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        row, gate = torch.zeros(1, dtype=torch.int64), torch.ones(1)
        hidden = torch.ones(1, spec.hidden, dtype=torch.bfloat16)  # [1, H]
        groups = [Group(expert, row, gate) for expert in experts]
        with torch.inference_mode():
            computed_s = _best(lambda: feed_forward(groups, hidden))
        read_s = _best(lambda: _read(memory, threads))
    finally:
        torch.set_num_threads(before)
    return Speed(len(memory) / computed_s, len(memory) / read_s)


def _read(memory: memoryview, threads: int) -> None:
    library = native_library.load()
    if library is None:
        torch.frombuffer(memory, dtype=torch.int64).sum()
    else:
        library.folkmoot_read(np.frombuffer(memory, np.uint8).ctypes.data, len(memory), threads)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the quickest of several times, the first left out."""
    work()
    best, spent = float("inf"), 0.0
    while spent < AT_LEAST_S:
        began_s = time.perf_counter()
        work()
        took_s = time.perf_counter() - began_s
        best, spent = min(best, took_s), spent + took_s
    return best
