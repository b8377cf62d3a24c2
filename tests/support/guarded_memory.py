"""Memory that ends where a page ends that nobody may touch: whoever reads or writes beyond it dies at once."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import numpy.typing as npt
import torch

_PROT_NONE = 0


def guarded(data: bytes) -> npt.NDArray[np.uint8]:
    """A writable copy of some bytes that ends at the end of a page; the page after it is out of bounds."""
    page = mmap.PAGESIZE
    size = -(-len(data) // page) * page
    memory = mmap.mmap(-1, size + page)
    everything = np.frombuffer(memory, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if libc.mprotect(everything.ctypes.data + size, page, _PROT_NONE) != 0:
        raise OSError(ctypes.get_errno(), "mprotect failed")
    inside = everything[size - len(data) : size]
    inside[:] = np.frombuffer(data, np.uint8)
    return inside


def guarded_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of a tensor in such memory."""
    data = guarded(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return torch.frombuffer(data, dtype=tensor.dtype).view(tensor.shape)
