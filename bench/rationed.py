"""`folkmoot` with nodes that are as slow as they are told: what the benchmark of scaling adds nodes of, and nothing else.

Guarantees: only a process that was started as this module behaves so; nothing of the package can be told to. A node's results are
right and signed as ever; they take as long as on a machine that works off so many bytes of experts a second, each expert counted as
often as it has rows, one frame after another: two cores can stand for many machines, because such a node mostly sleeps.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

import torch

from ..cli import main
from ..node.executor import Executor
from ..node.frames import Work

PROGRAM: Final = "folkmoot.bench.rationed"
RATE_VARIABLE: Final = "FOLKMOOT_BENCH_ROW_BYTES_PER_S"
"""Bytes of experts times rows, a second."""


class Ration:
    """How fast one node may work.

    Args:
        row_bytes_per_s: Bytes of experts times rows, a second.
        clock, sleep: Of the system, unless a test has others.
    """

    def __init__(
        self,
        row_bytes_per_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._row_bytes_per_s = row_bytes_per_s
        self._clock, self._sleep = clock, sleep

    def spend(self, began_s: float, work: Work) -> None:
        """Returns when a frame that was begun then would be done: what computing it took already counts."""
        row_bytes = sum(group.rows.numel() * group.expert.spec.expert_bytes for group in work.groups)
        left_s = began_s + row_bytes / self._row_bytes_per_s - self._clock()
        if left_s > 0:
            self._sleep(left_s)


def slow_down(row_bytes_per_s: float) -> None:
    """From now on executors of this process work at this rate."""
    ration, compute = Ration(row_bytes_per_s), Executor.compute

    def rationed(self: Executor, work: Work) -> torch.Tensor:
        began_s = time.monotonic()
        output = compute(self, work)
        ration.spend(began_s, work)
        return output

    Executor.compute = rationed  # type: ignore[method-assign]


if __name__ == "__main__":
    if (rate := os.environ.get(RATE_VARIABLE)) is not None:
        slow_down(float(rate))
    main.main()
