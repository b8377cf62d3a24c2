"""Random numbers that no node can foresee: whoever knew them would know when to cheat.

Guarantees: each number comes from the system's secure source and is given once.
"""

from __future__ import annotations

import os
from typing import Final

import numpy as np
import numpy.typing as npt

_AT_ONCE: Final = 4096
_BITS: Final = 53


class SecretDraws:
    """Uniform numbers in [0, 1). For one thread."""

    def __init__(self) -> None:
        self._left: npt.NDArray[np.float64] = np.zeros(0)

    def take(self, count: int) -> npt.NDArray[np.float64]:
        """The next `count` of them."""
        if count > len(self._left):
            raw = np.frombuffer(os.urandom(8 * max(count, _AT_ONCE)), np.uint64)
            self._left = (raw >> np.uint64(64 - _BITS)).astype(np.float64) / 2**_BITS
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def order(self, count: int) -> npt.NDArray[np.intp]:
        """The numbers 0 to `count` - 1 in a random order."""
        return np.argsort(self.take(count))
