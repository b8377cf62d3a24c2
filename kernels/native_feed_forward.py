"""The expert feed-forward by the native kernels, for as many rows as they beat torch at.

Guarantees: sums are float32 and nothing between input and output is rounded to less; results do not depend on the number of
threads.

Letters: R rows, n rows of one group, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .formats import ExpertSpec
from .native_expert import FLOATS, address_of, form_struct
from .native_library import GroupStruct, check, load
from .native_rows import most_rows
from .threads import native_threads

if TYPE_CHECKING:
    from .feed_forward import Group


def runs(group: Group, hidden: torch.Tensor) -> bool:
    """Whether the native kernels should compute a group on rows of this type."""
    return (
        hidden.dtype in FLOATS
        and group.rows.numel() <= most_rows(group.expert.spec.format, hidden.dtype)
        and load() is not None
        and group.expert.native is not None
    )


def add_feed_forward(
    spec: ExpertSpec, groups: Sequence[Group], hidden: torch.Tensor, output: torch.Tensor
) -> None:
    """Adds each group's gated outputs to `output`.

    Args:
        spec: The form of all the groups' experts.
        groups: Rows by expert; `runs` holds for each, and all experts are packed, or none is.
        hidden: [R, H], contiguous.
        output: [R, H] float32, contiguous.

    Raises:
        IndexError: when a group names a row that does not exist.
        MemoryError: when the scratch for the rows cannot be had.
    """
    library = load()
    if library is None or not groups:
        return
    # The index types of the C interface; a no-op for what callers normally have. Kept alive until the call returns.
    kept = [
        (group.expert.native, group.rows.long().contiguous(), group.gates.float().contiguous())
        for group in groups
    ]
    structs = (GroupStruct * len(groups))(
        *(
            GroupStruct(address_of(native), rows.data_ptr(), gates.data_ptr(), rows.numel())
            for native, rows, gates in kept
            if native is not None
        )
    )
    check(
        library.folkmoot_feed_forward(
            form_struct(spec, groups[0].expert.packed),
            structs,
            len(groups),
            hidden.data_ptr(),
            FLOATS[hidden.dtype],
            hidden.shape[0],
            output.data_ptr(),
            native_threads(),
        )
    )
