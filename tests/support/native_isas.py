"""The instruction sets that the native kernels can be forced to use on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from folkmoot.kernels import native_library


def available() -> list[str]:
    """The names of those that this processor has; none without the library."""
    library = native_library.load()
    if library is None:
        return []
    names = [
        name for name in ("amx", "avx512", "avx2", "neon") if library.folkmoot_force_isa(name.encode()) == 0
    ]
    library.folkmoot_force_isa(None)
    return names


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Computes with one instruction set."""
    library = native_library.load()
    assert library is not None and library.folkmoot_force_isa(name.encode()) == 0
    try:
        yield
    finally:
        library.folkmoot_force_isa(None)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
