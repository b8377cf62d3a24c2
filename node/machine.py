"""What this machine can lend: memory and cores, as its operating system and its container limit them.

Guarantees: never promises more than the smallest limit found; a limit that cannot be read counts as absent.
"""

from __future__ import annotations

import os
from pathlib import Path

from .cgroups import memory_left_bytes, whole_cores
from .small_files import read_text

WORKING_ALLOWANCE_BYTES = 512 << 20
"""What a node takes besides the experts it holds: the interpreter, torch, buffers of frames and of downloads."""
MEMORY_SHARE = 0.5
"""The part of the memory available now that a node lends when nobody says how much."""
LEAST_MEMORY_BYTES = 256 << 20
"""What a node lends at least, if it is asked for as much, however full the machine looks."""

_MEMINFO = Path("/proc/meminfo")
_TOPOLOGY = Path("/sys/devices/system/cpu")


def available_memory_bytes() -> int:
    """Memory that could be taken now without pushing other programs out, or out of the container."""
    found = [amount for amount in (_kernel_available(), memory_left_bytes()) if amount is not None]
    if found:
        return min(found)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def default_memory_bytes() -> int:
    """What a node lends when nobody says how much: half of what is available once its own allowance is taken off."""
    return max(LEAST_MEMORY_BYTES, int((available_memory_bytes() - WORKING_ALLOWANCE_BYTES) * MEMORY_SHARE))


def lendable_memory_bytes() -> int:
    """The most that a node can lend: all that is available once its own allowance is taken off.

    Experts lie in memory that the system cannot take back: with more than this, it would end the node.
    """
    return max(LEAST_MEMORY_BYTES, available_memory_bytes() - WORKING_ALLOWANCE_BYTES)


def default_threads() -> int:
    """Physical cores that this process may use: a sibling hyperthread adds nothing to a loop bound by memory."""
    usable = (
        sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    cores = {_siblings(cpu) for cpu in usable}
    quota = whole_cores()
    return max(1, len(cores) if quota is None else min(len(cores), quota))


def _siblings(cpu: int) -> str:
    text = read_text(_TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list")
    return text or str(cpu)


def _kernel_available() -> int | None:
    for line in (read_text(_MEMINFO) or "").splitlines():
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return int(amount.split()[0]) * 1024
    return None
