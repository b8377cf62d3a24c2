"""The expert feed-forward on ragged rows: gated, and pre-summed for each row.

Guarantees: `feed_forward` returns, for each row of `hidden`, the sum over the groups that name it of gate x expert(row),
accumulated in float32. Sums of products are float32 whatever the weights' type; gate, up, their product and the
expert's output are each rounded at most once to the weights' type (the arithmetic profile `float32-accumulate/1`), and by the native kernels not at all.

Letters: R rows, n rows of one group, H hidden size, I intermediate size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from . import native_feed_forward
from .expert import Expert
from .first_products import FirstProducts
from .threads import zeros_like
from .torch_expert import expert_forward


@dataclass(frozen=True, slots=True)
class Group:
    """The rows that go through one expert.

    Attributes:
        expert: The expert.
        rows: [n] int64, indices into the rows given; none twice.
        gates: [n] float32, what each row's output is multiplied by.
    """

    expert: Expert
    rows: torch.Tensor
    gates: torch.Tensor


def feed_forward(
    groups: Sequence[Group], hidden: torch.Tensor, first: FirstProducts | None = None
) -> torch.Tensor:
    """Runs each group's rows through its expert and sums, for each row, the gated outputs.

    Args:
        groups: Rows by expert; all experts of one layer, so of one spec.
        hidden: [R, H] in the trunk's dtype.
        first: Room for gate and up activations, which is filled where all of them are computed natively and in float32.

    Returns:
        [R, H] float32; rows that no group names are zero.
    """
    output = zeros_like(hidden)
    if not groups:
        return output
    most = native_feed_forward.most_rows_of(groups[0].expert.spec, hidden.dtype)
    packed: list[Group] = []
    plain: list[Group] = []
    others: list[Group] = []
    for group in groups:
        count, expert = group.rows.numel(), group.expert
        if count:
            if count > most or expert.native is None:
                others.append(group)
            else:
                (packed if expert.packed else plain).append(group)
    for native in (packed, plain):
        if native:
            room = first if native is plain and not others else None
            native_feed_forward.add_feed_forward(native, hidden.contiguous(), output, room)
    only_row = hidden.shape[0] == 1
    for group in others:
        rows = hidden if only_row else hidden.index_select(0, group.rows)  # [n, H]
        answer = expert_forward(group.expert, rows).float()  # [n, H]
        if only_row:
            output.addcmul_(answer, group.gates.unsqueeze(1))
        else:
            output.index_add_(0, group.rows, answer.mul_(group.gates.unsqueeze(1)))
    return output
