"""Sorts the rows of a frame by expert and cuts them into blocks, each of one expert.

Guarantees: pure, and the same groups give the same schedule; each pair of row and expert has exactly one slot; a row's slots
are listed in the order of the groups, so sums over them do not depend on how a GPU schedules.

Letters: R rows, S slots (a multiple of the block's height), B blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ..feed_forward import Group


@dataclass(frozen=True)
class Schedule:
    """What the blocks compute.

    Attributes:
        rows: [S] int32, the row in each slot; -1 where the last block of an expert has none.
        gates: [S] float32, 0 where there is no row.
        block_groups: [B] int32, the group of each block.
        slots: [R, most] int32, the slots of each row, ended by -1.
    """

    rows: torch.Tensor
    gates: torch.Tensor
    block_groups: torch.Tensor
    slots: torch.Tensor


def schedule(groups: Sequence[Group], row_count: int, height: int) -> Schedule:
    """Plans the blocks for groups, at least one of which has rows.

    Args:
        groups: Rows by expert.
        row_count: R.
        height: Rows of a block.

    Raises:
        IndexError: a group names a row that does not exist.
    """
    counts = torch.tensor([group.rows.numel() for group in groups])
    blocks = (counts + height - 1) // height
    pair_rows = torch.cat([group.rows for group in groups])  # [P]
    if bool(((pair_rows < 0) | (pair_rows >= row_count)).any()):
        raise IndexError(f"a group names a row outside of 0 to {row_count - 1}")
    starts = (blocks.cumsum(0) - blocks) * height
    first = counts.cumsum(0) - counts
    places = torch.arange(len(pair_rows)) + (starts - first).repeat_interleave(
        counts
    )  # [P]: the slot of each pair
    total = int(blocks.sum()) * height
    rows = torch.full((total,), -1, dtype=torch.int32)
    rows[places] = pair_rows.int()
    gates = torch.zeros(total, dtype=torch.float32)
    gates[places] = torch.cat([group.gates.float() for group in groups])
    order = pair_rows.argsort(stable=True)
    by_row = pair_rows[order]
    each = torch.bincount(pair_rows, minlength=row_count)
    within = torch.arange(len(order)) - (each.cumsum(0) - each)[by_row]
    slots = torch.full((row_count, int(each.max()) + 1), -1, dtype=torch.int32)
    slots[by_row, within] = places[order].int()
    block_groups = torch.arange(len(groups)).repeat_interleave(blocks).int()
    return Schedule(rows, gates, block_groups, slots)
