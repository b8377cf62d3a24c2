"""Rows of whole numbers in the order in which vectors multiply them best: panels of 16.

Guarantees: packing moves what a row is made of within its panel and changes none of it; `rows_of` gives rows as they were. The C header
says how a panel lies (`folkmoot_matrix`).

Letters: N rows (outputs), P panels, U units of a row: four bytes of values, or one scale.
"""

from __future__ import annotations

import torch

from .formats import GROUP, ExpertSpec
from .native_library import FORMATS, load

PANEL_ROWS = 16
"""Rows that share a panel."""
_AT_ONCE = 64 * PANEL_ROWS
"""Rows that are packed at once, so that it takes little memory."""


def wanted(spec: ExpertSpec) -> bool:
    """Whether this processor multiplies experts of a form faster by panels, of which they are made without a rest."""
    library = load()
    return (
        library is not None
        and spec.layout.row_major
        and not spec.hidden % GROUP
        and not spec.intermediate % GROUP
        and bool(library.folkmoot_has_panels(FORMATS[spec.format]))
    )


def pack(rows: torch.Tensor) -> None:
    """Puts rows [N, U] that lie side by side into panels, in place. Not by torch, whose threads would take cores that nobody lent.

    Raises:
        MemoryError: when there is none for a few rows.
    """
    numbers = rows.numpy()
    for start in range(0, len(numbers), _AT_ONCE):
        part = numbers[start : start + _AT_ONCE]
        panels = part.reshape(-1, PANEL_ROWS, part.shape[1]).transpose(0, 2, 1)  # [P, U, 16]
        part[:] = panels.reshape(part.shape)


def rows_of(packed: torch.Tensor, rows: range) -> torch.Tensor:
    """Some rows, at least one, out of panels [N, U]: a copy, but where a row is one unit."""
    first, last = rows[0] // PANEL_ROWS, rows[-1] // PANEL_ROWS + 1
    part = packed[first * PANEL_ROWS : last * PANEL_ROWS]
    panels = part.reshape(last - first, -1, PANEL_ROWS)  # [P, U, 16]
    plain = panels.transpose(1, 2).reshape(part.shape)
    begin = first * PANEL_ROWS
    return plain[rows.start - begin : rows.stop - begin : rows.step]
