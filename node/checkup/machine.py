"""The processor, its kernels and the memory.

Guarantees: nothing is changed; a file of the system that cannot be read counts as saying nothing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from ...amounts import format_bytes
from ...kernels import native_library
from ...kernels.backend import choose_backend
from ...kernels.weight_memory import has_huge_pages
from ..cgroups import memory_left_bytes, whole_cores
from ..machine import WORKING_ALLOWANCE_BYTES, available_memory_bytes, default_threads
from ..settings import NodeSettings
from ..small_files import read_text
from .finding import Finding, fit, note, to_mend

COMPILERS: Final = ("cc", "gcc", "clang")
SETS: Final = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "bf16",
    "i8mm",
)
"""The instruction sets that kernels use, as Linux names them."""
_CPUINFO = Path("/proc/cpuinfo")


def compiler() -> Finding:
    """Whether native kernels can be built here."""
    named = os.environ.get("CC", "").split()
    found = next((path for name in (*named[:1], *COMPILERS) if (path := shutil.which(name))), None)
    if found is not None:
        return fit("compiler", found)
    if native_library.load() is not None:
        return fit("compiler", "there is none, and none is needed: the native kernels are built")
    return to_mend(
        "compiler",
        "there is no C compiler, so that no native kernels could be built",
        "install one (Debian, Ubuntu: `apt install build-essential`; Fedora: `dnf install gcc`), then install Folkmoot again",
    )


def instruction_sets() -> Finding:
    """What of the processor kernels can use."""
    has = set(flags())
    known = [name for name in SETS if name in has]
    if known:
        return fit("instruction sets", " ".join(known))
    return note("instruction sets", "none that the native kernels use")


def kernels() -> Finding:
    """What computes here."""
    says = choose_backend().describe()
    if native_library.load() is not None or not says.startswith("torch"):
        return fit("kernels", says)
    if os.environ.get(native_library.SWITCH) == "torch":
        return note("kernels", says, f"{native_library.SWITCH}=torch asks for that: unset it")
    if not {"avx2", "avx512f", "asimd"}.intersection(flags()):
        return note("kernels", f"{says}: this processor has none of their instruction sets")
    return to_mend(
        "kernels",
        says,
        "install Folkmoot again where there is a C compiler: `make setup`, or `pip install --force-reinstall`",
    )


def threads(settings: NodeSettings) -> Finding:
    """Whether as many cores are there as threads are lent."""
    cores, quota = default_threads(), whole_cores()
    says = f"{settings.threads} of {cores} cores" + (
        "" if quota is None else f" (the container allows {quota})"
    )
    if settings.threads <= cores:
        return fit("threads", says)
    return to_mend(
        "threads",
        f"{says}: more threads than cores make it slower",
        f"set threads = {cores}, or --threads {cores}",
    )


def memory(settings: NodeSettings, held_bytes: int) -> Finding:
    """Whether what is lent is there; what a running node holds of experts now counts as free."""
    free = available_memory_bytes() + held_bytes
    lendable = max(0, free - WORKING_ALLOWANCE_BYTES)
    group = memory_left_bytes()
    says = f"{format_bytes(free)} free" + (
        f", {format_bytes(group)} in this process's control groups"
        if group is not None and group <= free
        else ""
    )
    if settings.memory_bytes <= lendable:
        return fit("memory", f"{says}; lends {format_bytes(settings.memory_bytes)}")
    return to_mend(
        "memory",
        f"{says}, which is not enough to lend {format_bytes(settings.memory_bytes)} and work with "
        f"{format_bytes(WORKING_ALLOWANCE_BYTES)}",
        f"stop other programs, or lend less: memory_bytes in {settings.file()}, or --memory",
    )


def huge_pages() -> Finding:
    """Whether weights can lie where they are read fastest."""
    if has_huge_pages():
        return fit("huge pages", "given to programs that ask")
    return note(
        "huge pages",
        "the system gives none: weights are read about a fifth slower",
        "as root: `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`",
    )


def flags() -> list[str]:
    """The first processor's features, as Linux names them."""
    for line in (read_text(_CPUINFO) or "").splitlines():
        name, _, values = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return values.split()
    return []
