"""The state folder and its disk: room, speed, and who may read the key.

Guarantees: what is written to measure is removed again, and never fills the disk.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

from ...amounts import format_bytes
from ...disk import write_all
from ...errors import FolkmootError
from ...trust.keys import Identity
from ..folders import UnusableFolderError, nearest_existing
from ..settings import NodeSettings
from ..store import ExpertStore
from .finding import Finding, fit, note, to_mend

MEASURED_BYTES: Final = 64 << 20
SLOW_BYTES_PER_S: Final = 20 << 20
"""A disk that writes less makes downloads wait for it."""
_PIECE_BYTES: Final = 4 << 20


def identity(settings: NodeSettings) -> Finding:
    """Whether the key is there, whole, and nobody else's."""
    path = settings.state_dir / "identity.key"
    try:
        if not path.exists():
            return note("key", f"{path} is made when the node starts for the first time")
        return fit("key", f"node {Identity.load_or_create(path).node_id[:12]}, for nobody else to read")
    except FolkmootError as error:
        return to_mend("key", error.message, error.advice or "restore it from a copy")
    except OSError as error:
        return to_mend(
            "key", f"{path} cannot be seen ({error.strerror})", "`chown` it to the user that runs the node"
        )


def room(settings: NodeSettings) -> Finding:
    """Whether what experts may take is there."""
    folder = settings.state_dir
    try:
        there = nearest_existing(folder)
    except UnusableFolderError as error:
        return to_mend("disk", error.message, _elsewhere())
    if not os.access(there, os.W_OK | os.X_OK):
        return to_mend(
            "disk",
            f"{folder} cannot be written",
            f"`chown` it to the user that runs the node, or {_elsewhere()}",
        )
    try:
        free = shutil.disk_usage(there).free
        stored = ExpertStore(folder / "experts", settings.disk_bytes).stored_bytes()
    except (OSError, FolkmootError) as error:
        return to_mend("disk", f"{folder} cannot be read ({error})", _elsewhere())
    says = f"{format_bytes(free)} free, {format_bytes(stored)} of experts there; may take {format_bytes(settings.disk_bytes)}"
    if free + stored >= settings.disk_bytes:
        return fit("disk", says)
    return to_mend("disk", says, f"free some room, lower disk_bytes in {settings.file()}, or {_elsewhere()}")


def speed(settings: NodeSettings, size: int = MEASURED_BYTES) -> Finding:
    """How fast the disk takes and gives."""
    try:
        there = nearest_existing(settings.state_dir)
        if shutil.disk_usage(there).free < 2 * size:
            return note("disk speed", "not measured: the disk is almost full")
        written, read = _measure(there, size)
    except UnusableFolderError as error:
        return to_mend("disk speed", error.message, _elsewhere())
    except OSError as error:
        return to_mend("disk speed", f"{there} cannot be written ({error.strerror})", _elsewhere())
    says = f"writes {format_bytes(written)}/s, reads {format_bytes(read)}/s"
    if written >= SLOW_BYTES_PER_S:
        return fit("disk speed", says)
    return note("disk speed", f"{says}: downloads will wait for it", _elsewhere())


def _measure(folder: Path, size: int) -> tuple[float, float]:
    piece = os.urandom(_PIECE_BYTES)
    with tempfile.TemporaryFile(dir=folder) as file:
        descriptor = file.fileno()
        began_s = time.perf_counter()
        for _ in range(max(1, size // _PIECE_BYTES)):
            write_all(descriptor, piece)
        os.fsync(descriptor)
        written_s = time.perf_counter() - began_s
        size = os.fstat(descriptor).st_size
        if hasattr(os, "posix_fadvise"):  # or what is read comes from memory
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        began_s = time.perf_counter()
        while os.read(descriptor, _PIECE_BYTES):
            pass
        return size / max(written_s, 1e-9), size / max(time.perf_counter() - began_s, 1e-9)


def _elsewhere() -> str:
    return "keep the state on another disk: state_dir, or --state"
