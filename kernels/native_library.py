"""The native kernels, when the install could build them and this processor can run them.

Guarantees: importing this touches no file; `load()` looks once; without the library everything works through torch. Arrays
are handed over by address, so callers keep them alive, contiguous and of the types that the C header states. The
interpreter's lock is released while the library computes.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from ..errors import FolkmootError
from .formats import WeightFormat

ABI = 8
SWITCH = "FOLKMOOT_KERNELS"
"""The environment variable that leaves everything to torch when it says "torch": to compare, or to find a fault."""
FORMATS: dict[WeightFormat, int] = {
    WeightFormat.FLOAT32: 0,
    WeightFormat.BFLOAT16: 1,
    WeightFormat.FLOAT16: 2,
    WeightFormat.FP8_BLOCK: 3,
    WeightFormat.INT8: 4,
    WeightFormat.INT8_CHANNEL: 5,
    WeightFormat.INT4: 6,
    WeightFormat.MXFP4: 7,
}
"""`enum folkmoot_format` of the C header."""
_log = logging.getLogger(__name__)
_NAMES = {"amx": "AMX-BF16 and AVX512-VNNI", "avx512": "AVX512-VNNI", "avx2": "AVX2-FMA", "neon": "NEON"}


class NativeKernelError(FolkmootError):
    """The native kernels refused what they were given."""


class MatrixStruct(ctypes.Structure):
    """`folkmoot_matrix` of the C header: where a matrix lies, and how far apart its rows are."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("minima", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("step", ctypes.c_int64),
        ("scale_step", ctypes.c_int64),
        ("bias_step", ctypes.c_int64),
    )


class LayerStruct(ctypes.Structure):
    """`folkmoot_layer`: one linear layer, and where its outputs go."""

    _fields_ = (("w", MatrixStruct), ("N", ctypes.c_int64), ("y", ctypes.c_void_p))


class FormStruct(ctypes.Structure):
    """`folkmoot_form`: what all experts of a call have in common."""

    _fields_ = (
        ("hidden", ctypes.c_int64),
        ("intermediate", ctypes.c_int64),
        ("format", ctypes.c_int32),
        ("bias_format", ctypes.c_int32),
        ("layout", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("alpha", ctypes.c_float),
        ("limit", ctypes.c_float),
    )


class ExpertStruct(ctypes.Structure):
    """`folkmoot_expert`: one expert's matrices.

    Attributes:
        form: What it has in common with others.
    """

    _fields_ = (("gate", MatrixStruct), ("up", MatrixStruct), ("down", MatrixStruct))
    form: FormStruct

    @functools.cached_property
    def address(self) -> int:
        """Where it lies, as long as it is kept."""
        return ctypes.addressof(self)


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, ready to be called; None when it was not built or cannot run here."""
    if os.environ.get(SWITCH) == "torch":
        _log.info("%s=torch: torch computes, which is slower", SWITCH)
        return None
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
    library.folkmoot_isa.restype = ctypes.c_char_p
    if library.folkmoot_isa() is None:
        _log.info("this processor has neither AVX512-VNNI nor AVX2 nor NEON; torch computes, which is slower")
        return None
    pointer, size, number, form = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.POINTER(FormStruct)
    layers = ctypes.POINTER(LayerStruct)
    library.folkmoot_force_isa.argtypes = (ctypes.c_char_p,)
    library.folkmoot_linear.argtypes = (
        layers,
        size,
        number,
        number,
        size,
        pointer,
        number,
        number,
        size,
        ctypes.c_int,
    )
    library.folkmoot_rms_norm.argtypes = (pointer, pointer, number, size, size, ctypes.c_float, pointer)
    library.folkmoot_feed_forward.argtypes = (
        form,
        pointer,
        size,
        pointer,
        number,
        size,
        pointer,
        ctypes.c_int,
    )
    library.folkmoot_has_panels.argtypes = (ctypes.c_int,)
    library.folkmoot_fp8_has_nan.argtypes = (pointer, size)
    library.folkmoot_read.argtypes = (pointer, size, ctypes.c_int)
    library.folkmoot_read.restype = ctypes.c_uint64
    return library


def check(status: int) -> None:
    """Raises what a status of the library means.

    Raises:
        MemoryError: there was none for scratch.
        IndexError: a group names a row that does not exist.
        NativeKernelError: the library cannot do what it was asked for.
    """
    match status:
        case 0:
            return
        case -2:
            raise MemoryError("the native kernels found no memory for their scratch")
        case -3:
            raise IndexError("a group names a row that does not exist")
        case _:
            raise NativeKernelError(
                f"the native kernels refused with {status}", advice="install Folkmoot again, and report this"
            )


def describe() -> str:
    """One phrase for a log line: what computes here."""
    library = load()
    if library is None:
        return "torch (no native kernels, slower)"
    name = library.folkmoot_isa().decode()
    return f"native {_NAMES.get(name, name)} kernels"
