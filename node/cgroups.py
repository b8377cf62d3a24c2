"""What the control groups that this process is in allow it: memory and processor time, in versions 1 and 2.

Guarantees: the limits of all groups from the process's own up to the topmost that can be seen count; one that cannot be
read counts as absent; what the kernel keeps of files, and would give up for a group's processes, counts as free.

Sources: the kernel's documentation of cgroup v2 and of the controllers `memory` and `cpu` of v1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from .small_files import read_text

_OWN = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")
_TOPMOST = "1:cpu,memory:/\n0::/"
"""Where a process is taken to be when the system does not say."""

_V2_MEMORY = "memory.current", ("memory.max", "memory.high"), ("inactive_file", "active_file")
_V1_MEMORY = (
    "memory.usage_in_bytes",
    ("memory.limit_in_bytes",),
    ("total_inactive_file", "total_active_file"),
)


def memory_left_bytes() -> int | None:
    """Memory that may still be taken before a group is full; None when no group has a limit."""
    left = [
        amount
        for group in _groups("memory")
        for files in (_V2_MEMORY, _V1_MEMORY)
        if (amount := _left(group, *files)) is not None
    ]
    return min(left, default=None)


def whole_cores() -> int | None:
    """Whole cores' worth of processor time that the groups allow, at least one; None when none has a quota."""
    quotas = [quota for group in _groups("cpu") if (quota := _cores(group)) is not None]
    return max(1, int(min(quotas))) if quotas else None


def _groups(controller: str) -> Iterator[Path]:
    """The folders of all groups that may limit this, the process's own first."""
    for line in (read_text(_OWN) or _TOPMOST).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        root = _ROOT / controller if controllers else _ROOT
        parts = [part for part in path.split("/") if part]
        # A path out of what can be seen: only the topmost group can be looked at.
        for depth in range(0 if ".." in parts else len(parts), -1, -1):
            yield root.joinpath(*parts[:depth])


def _left(group: Path, used_file: str, limit_files: Iterable[str], cache: Iterable[str]) -> int | None:
    used = _number(group / used_file)
    limits = [limit for name in limit_files if (limit := _number(group / name)) is not None]
    if used is None or not limits:
        return None
    kept = dict(line.split(maxsplit=1) for line in (read_text(group / "memory.stat") or "").splitlines())
    reclaimable = sum(int(kept[name]) for name in cache if kept.get(name, "").isdigit())
    return max(0, min(limits) - max(0, used - reclaimable))


def _cores(group: Path) -> float | None:
    text, _, period_text = (read_text(group / "cpu.max") or "").partition(" ")
    quota = int(text) if text.isdigit() else _number(group / "cpu.cfs_quota_us")
    period = int(period_text) if period_text.isdigit() else _number(group / "cpu.cfs_period_us")
    return quota / period if quota and period else None


def _number(path: Path) -> int | None:
    """What a file holds, when that is a number; `max` and -1 are none."""
    text = read_text(path)
    return int(text) if text is not None and text.isdigit() else None
