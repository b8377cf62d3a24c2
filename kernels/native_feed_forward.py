"""The expert feed-forward by the native kernels, for as many rows as they beat torch at.

Guarantees: sums are float32 and nothing between input and output is rounded to less, but that inputs of whole-number weights are
rounded to 16 bits a group; results do not depend on the number of threads.

Letters: R rows, n rows of one group, H hidden size.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .first_products import FirstProducts
from .formats import ExpertSpec
from .native_expert import FLOATS
from .native_library import check, load
from .native_rows import most_rows
from .threads import native_threads
from .whole_inputs import WHOLE

if TYPE_CHECKING:
    from .feed_forward import Group


def most_rows_of(spec: ExpertSpec, dtype: torch.dtype) -> int:
    """Up to how many rows of a type the native kernels should compute an expert of this form; 0 where they cannot."""
    return most_rows(spec.format, dtype) if dtype in FLOATS and load() is not None else 0


def add_feed_forward(
    groups: Sequence[Group], hidden: torch.Tensor, output: torch.Tensor, first: FirstProducts | None = None
) -> None:
    """Adds each group's gated outputs to `output`.

    What it does before the kernels start, it does while the caches are full of weights: it looks at as little as it can.

    Args:
        groups: Rows by expert, at least one and no more than `most_rows_of` says; experts are of one form, have a `native`, and
            are packed all or none.
        hidden: [R, H], contiguous.
        output: [R, H] float32, contiguous.
        first: Room for the activations of these groups, which is filled unless inputs are rounded.

    Raises:
        IndexError: when a group names a row that does not exist.
        MemoryError: when the scratch for the rows cannot be had.
        ValueError: when there is room for other pairs, or torch has to compute an expert.
    """
    library = load()
    if library is None or not groups:
        return
    form, pairs = None, 0
    numbers, kept = array("q"), []
    gate, up, row_bytes = 0, 0, 4 * groups[0].expert.spec.intermediate
    if first is not None and groups[0].expert.spec.format not in WHOLE:
        gate, up = first.gate, first.up
    for group in groups:
        native, rows, gates = group.expert.native, group.rows, group.gates
        if native is None:
            raise ValueError("an expert that torch has to compute")
        if rows.dtype is not torch.int64 or not rows.is_contiguous():
            rows = rows.long().contiguous()
        if gates.dtype is not torch.float32 or not gates.is_contiguous():
            gates = gates.float().contiguous()
        kept.append((rows, gates))
        form = native.form
        # `folkmoot_group` of the C header.
        count = rows.numel()
        pairs += count
        numbers.extend((native.address, rows.data_ptr(), gates.data_ptr(), count, gate, up))
        gate, up = gate and gate + count * row_bytes, up and up + count * row_bytes
    if first is not None and first.pairs != pairs:
        raise ValueError(f"{pairs} pairs, and room for {first.pairs}")
    check(
        library.folkmoot_feed_forward(
            form,
            numbers.buffer_info()[0],
            len(groups),
            hidden.data_ptr(),
            FLOATS[hidden.dtype],
            hidden.shape[0],
            output.data_ptr(),
            native_threads(),
        )
    )
    if first is not None and up:
        first.filled = True
