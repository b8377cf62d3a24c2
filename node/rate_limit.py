"""How many bytes a second may be moved, over all that moves bytes in this process.

Guarantees: over any stretch of time no more is let through than the rate allows, plus what one second allows and the last
amount that was let through; whoever waits is served in the order of asking; a limit of 0 lets everything through at once.
Used from one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class RateLimit:
    """A token bucket of one second's bytes, to be shared by all downloads (or all uploads) of a process.

    Args:
        bytes_per_s: The rate; 0 for no limit.
        clock: Seconds that only grow.
    """

    def __init__(self, bytes_per_s: int = 0, *, clock: Callable[[], float] = time.monotonic) -> None:
        if bytes_per_s < 0:
            raise ValueError(f"no bytes can pass at {bytes_per_s} a second")
        self.bytes_per_s = bytes_per_s
        self._clock = clock
        self._free_s = clock() - 1.0
        """When the bucket would be full again, less one second: bytes are let through once this has passed."""

    def owed_s(self, count: int) -> float:
        """Takes `count` bytes out of the bucket, below its bottom if need be; how long to wait before they may be used."""
        if not self.bytes_per_s:
            return 0.0
        now_s = self._clock()
        self._free_s = max(self._free_s, now_s - 1.0) + count / self.bytes_per_s
        return max(self._free_s - now_s, 0.0)

    async def take(self, count: int) -> None:
        """Returns when `count` bytes may have been moved; those who come later wait for these too."""
        wait_s = self.owed_s(count)
        if wait_s:
            await asyncio.sleep(wait_s)
