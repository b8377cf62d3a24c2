"""Giving memory back that has been freed.

Guarantees: nothing but memory use changes. glibc keeps what a thread has freed for that thread; whoever has worked with whole
experts once in a while would so keep their size for ever.
"""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Returns freed memory of all threads to the system, where the C library knows how to."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
