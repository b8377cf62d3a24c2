"""The native kernels, when the install could build them and this processor can run them.

Guarantees: importing this touches no file; `load()` looks once; without the library everything works through torch. Arrays
are handed over by address, so callers keep them alive, contiguous and of the types that the C header states.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

ABI = 1
_log = logging.getLogger(__name__)


class GroupStruct(ctypes.Structure):
    """`folkmoot_group` of the C header: one expert's three matrices, and the rows that go through it."""

    _fields_ = (
        ("gate", ctypes.c_void_p),
        ("up", ctypes.c_void_p),
        ("down", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("gates", ctypes.c_void_p),
        ("n", ctypes.c_int64),
    )


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, ready to be called; None when it was not built or cannot run here."""
    folder = Path(__file__).parent
    path = next(
        (path for suffix in EXTENSION_SUFFIXES if (path := folder / f"_native{suffix}").exists()), None
    )
    if path is None:
        _log.info(
            "no native kernels were built; torch computes, which is slower: a C compiler at install time mends it"
        )
        return None
    library = ctypes.CDLL(str(path))
    if library.folkmoot_abi() != ABI:
        _log.warning("the native kernels are of another version; torch computes: install Folkmoot again")
        return None
    if not library.folkmoot_has_bf16():
        _log.info("this processor has no AVX512-BF16; torch computes, which is slower")
        return None
    pointer, size, count = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.folkmoot_linear_bf16.argtypes = (pointer, pointer, pointer, pointer, size, size, size, count)
    library.folkmoot_swiglu_bf16.argtypes = (
        ctypes.POINTER(GroupStruct),
        size,
        pointer,
        pointer,
        size,
        size,
        count,
    )
    return library


def describe() -> str:
    """One phrase for a log line: what computes here."""
    return "native AVX512-BF16 kernels" if load() is not None else "torch (no native kernels)"
