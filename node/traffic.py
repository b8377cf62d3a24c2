"""What downloads have brought, and whom they wait for right now.

Guarantees: counters only grow; a wait ends when its context is left, however that happens. Used from one event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Traffic:
    """Of one link.

    Attributes:
        fetched_bytes: What came over the network.
        brought_bytes: What came from anywhere, a local folder too.
        unready_bytes: How much is there of experts that are not whole yet.
    """

    fetched_bytes: int = 0
    brought_bytes: int = 0
    unready_bytes: int = 0
    clock: Callable[[], float] = time.monotonic
    _waits: dict[int, tuple[str, float]] = field(default_factory=dict)
    _number: int = 0

    @contextmanager
    def waiting(self, whom: str) -> Iterator[None]:
        """While a source is waited for."""
        self._number += 1
        number = self._number
        self._waits[number] = (whom, self.clock())
        try:
            yield
        finally:
            del self._waits[number]

    def longest_wait(self) -> tuple[str, float] | None:
        """Who has been waited for the longest, and for how many seconds."""
        if not self._waits:
            return None
        whom, since_s = min(self._waits.values(), key=lambda wait: wait[1])
        return whom, self.clock() - since_s
