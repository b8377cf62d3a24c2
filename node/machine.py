"""What this machine can lend: memory and cores, as its operating system and its container limit them.

Guarantees: never promises more than the smallest limit found; a limit that cannot be read counts as absent.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

WORKING_ALLOWANCE_BYTES = 512 << 20
"""What a node takes besides the experts it holds: the interpreter, torch, buffers of frames and of downloads."""
MEMORY_SHARE = 0.5
"""The part of the memory available now that a node lends when nobody says how much."""
LEAST_MEMORY_BYTES = 256 << 20
"""What a node lends at least when nobody says how much, however full the machine looks."""
MANY_FILES = 1 << 18

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_TOPOLOGY = Path("/sys/devices/system/cpu")


def available_memory_bytes() -> int:
    """Memory that could be taken now without pushing other programs out, or out of the container."""
    found = [amount for amount in (_kernel_available(), _container_available()) if amount is not None]
    if found:
        return min(found)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def default_memory_bytes() -> int:
    """What a node lends when nobody says how much: half of what is available once its own allowance is taken off."""
    return max(LEAST_MEMORY_BYTES, int((available_memory_bytes() - WORKING_ALLOWANCE_BYTES) * MEMORY_SHARE))


def default_threads() -> int:
    """Physical cores that this process may use: a sibling hyperthread adds nothing to a loop bound by memory."""
    usable = (
        sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    cores = {_siblings(cpu) for cpu in usable}
    quota = _container_cores()
    return max(1, len(cores) if quota is None else min(len(cores), quota))


def allow_many_files() -> None:
    """Lets this process open as many files as its system allows at most: each mapped expert counts as one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _siblings(cpu: int) -> str:
    text = _read(_TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list")
    return text or str(cpu)


def _kernel_available() -> int | None:
    for line in (_read(_MEMINFO) or "").splitlines():
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return int(amount.split()[0]) * 1024
    return None


def _container_available() -> int | None:
    limit, used = _read(_CGROUP / "memory.max"), _read(_CGROUP / "memory.current")
    if limit is None or used is None or not limit.isdigit():
        return None
    return max(0, int(limit) - int(used))


def _container_cores() -> int | None:
    quota, _, period = (_read(_CGROUP / "cpu.max") or "").partition(" ")
    if not quota.isdigit() or not period.isdigit():
        return None
    return max(1, int(quota) // int(period))


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
