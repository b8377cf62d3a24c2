"""Experts in a GPU's memory.

Guarantees: an expert is copied to the GPU once, when it is first used, and leaves the GPU's memory when the expert goes; a
GPU that is full is an error by name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import torch

from ...errors import CapacityError
from ..expert import Expert

T = TypeVar("T")


class DeviceMemoryError(CapacityError):
    """A GPU's memory is too small for the experts that it should run."""


class Resident(Generic[T]):
    """What was made of each expert for a GPU. May be called from several threads."""

    def __init__(self, make: Callable[[Expert], T]) -> None:
        self._make = make
        self._made: WeakKeyDictionary[Expert, T] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._made)

    def of(self, expert: Expert) -> T:
        """What was made of an expert, now or earlier."""
        with self._lock:
            found = self._made.get(expert)
            if found is None:
                found = self._made[expert] = self._make(expert)
            return found


@contextmanager
def device_memory(device: torch.device) -> Iterator[None]:
    """Names a GPU whose memory is full.

    Raises:
        DeviceMemoryError: it is.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"{device} has too little memory for the experts of this layer",
            advice="host fewer experts: give the node less memory",
        ) from error
