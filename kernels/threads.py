"""How many threads one product of the native kernels may use, and what is kept from torch's.

Guarantees: torch's number of threads, until a process says otherwise. The two differ where rows are few: the native kernels' threads
sleep while there is nothing to do, but torch's spin, and take the cores from whoever is waited for.
"""

from __future__ import annotations

import ctypes

import torch

_native = 0


def set_native_threads(count: int) -> None:
    """From now on the native kernels use up to `count` threads in this process; 0 for as many as torch."""
    global _native
    _native = count


def native_threads() -> int:
    """The number that callers of the native kernels hand over."""
    return _native or torch.get_num_threads()


def zeros_like(rows: torch.Tensor) -> torch.Tensor:
    """Zeros in float32, of the shape of some rows. Not by torch, whose threads would spin on after so small a piece of work, on cores
    that the native ones need."""
    zeros = torch.empty(rows.shape, dtype=torch.float32)
    ctypes.memset(zeros.data_ptr(), 0, zeros.nbytes)
    return zeros
