"""bfloat16 products by the native kernels, for the few rows at which they beat torch.

Guarantees: each function either computes or returns None, and then torch has to; results differ from torch's only by
roundings that the arithmetic profile allows.

Letters: R rows, n rows of one group, H hidden size, I intermediate size, K inner and N outer size.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .formats import Activation, ExpertSpec, Layout
from .native_library import GroupStruct, load

if TYPE_CHECKING:
    from .feed_forward import Group

MOST_ROWS = 8
"""Rows of one group up to which the native kernels win; from there on torch's blocked product does."""


def runs(spec: ExpertSpec, hidden: torch.Tensor) -> bool:
    """Whether experts of this form can be computed natively on rows of this type."""
    return (
        hidden.dtype == torch.bfloat16
        and spec.dtype == "bfloat16"
        and spec.activation == Activation.SWIGLU
        and spec.layout in (Layout.SEPARATE, Layout.FUSED)
        and load() is not None
    )


def add_feed_forward(groups: Sequence[Group], hidden: torch.Tensor, output: torch.Tensor) -> None:
    """Adds each group's gated outputs to `output`; all groups of one spec for which `runs` holds.

    Args:
        groups: Rows by expert.
        hidden: [R, H] bfloat16, contiguous.
        output: [R, H] float32, contiguous.

    Raises:
        MemoryError: when the scratch for the rows cannot be had.
    """
    library = load()
    if library is None or not groups:
        return
    spec = groups[0].expert.spec
    # The index types of the C interface; a no-op for what callers normally have. Kept alive until the call returns.
    kept = [(group.rows.long().contiguous(), group.gates.float().contiguous()) for group in groups]
    structs = (GroupStruct * len(groups))(
        *(
            GroupStruct(*group.expert.addresses, rows.data_ptr(), gates.data_ptr(), rows.numel())
            for group, (rows, gates) in zip(groups, kept, strict=True)
        )
    )
    status = library.folkmoot_swiglu_bf16(
        structs,
        len(groups),
        hidden.data_ptr(),
        output.data_ptr(),
        spec.hidden,
        spec.intermediate,
        torch.get_num_threads(),
    )
    if status != 0:
        raise MemoryError("the native kernels found no memory for their scratch")


def linear(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
    """`F.linear` for few bfloat16 rows, or None when torch has to do it.

    Args:
        rows: [..., K].
        weight: [N, K], contiguous.
        bias: [N] or None.

    Returns:
        [..., N] bfloat16, each element a float32 sum rounded once.
    """
    count = rows.numel() // weight.shape[1]
    if (
        count > MOST_ROWS
        or rows.dtype != torch.bfloat16
        or weight.dtype != torch.bfloat16
        or not weight.is_contiguous()
        or (bias is not None and bias.dtype != torch.bfloat16)
    ):
        return None
    library = load()
    if library is None:
        return None
    rows = rows.contiguous()
    output = torch.empty((*rows.shape[:-1], weight.shape[0]), dtype=torch.bfloat16)
    library.folkmoot_linear_bf16(
        rows.data_ptr(),
        weight.data_ptr(),
        ctypes.c_void_p(None) if bias is None else bias.data_ptr(),
        output.data_ptr(),
        count,
        weight.shape[0],
        weight.shape[1],
        torch.get_num_threads(),
    )
    return output
