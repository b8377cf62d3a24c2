"""A matrix of an expert, in whatever format it is stored.

Guarantees: a `Matrix` is views over stored tensors; taking some of its rows gives a matrix again, and copies nothing. Only rows that lie
in panels (`panels.py`) are copied, by `row_by_row` and whatever needs it.

Letters: N rows (outputs), K columns (inputs), G groups of 32 inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from . import panels
from .formats import BLOCK, WeightFormat


@dataclass(frozen=True, slots=True)
class Matrix:
    """One matrix [N, K], row by row; rows lie `values.stride(0)` elements apart.

    Attributes:
        format: How the numbers are stored.
        values: [N, K], or [N, K / 2] in int4 and [N, G, 16] in mxfp4, two numbers a byte.
        scales: [N, G] in int8, int4 and mxfp4, [N] in int8_channel, [N / 128, K / 128] rounded up in fp8_block; None in
            the float formats.
        minima: [N, G] in int4; None in all others.
        packed: None when the tensors lie row by row. Otherwise their rows lie in panels, those of other matrices maybe among
            them, and these are the ones of this matrix.
    """

    format: WeightFormat
    values: torch.Tensor
    scales: torch.Tensor | None = None
    minima: torch.Tensor | None = None
    packed: range | None = None

    @property
    def rows(self) -> int:
        """N."""
        return self.values.shape[0] if self.packed is None else len(self.packed)

    @property
    def columns(self) -> int:
        """K."""
        halves = self.format in (WeightFormat.INT4, WeightFormat.MXFP4)
        return self.values[0].numel() * (2 if halves else 1)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The stored tensors in canonical order, row by row."""
        plain = self.row_by_row()
        return tuple(part for part in (plain.values, plain.scales, plain.minima) if part is not None)

    def row_by_row(self) -> Matrix:
        """The matrix with its rows one after another: itself, or a copy out of panels."""
        rows = self.packed
        if rows is None:
            return self
        if not rows:
            return replace(self, packed=None).take(slice(0))
        units = [panels.rows_of(part, rows) for part in self._units()]
        values = units.pop(0).view(self.values.dtype).view(-1, *self.values.shape[1:])
        scales, minima = self.scales, self.minima
        if scales is not None:
            scales = units.pop(0) if scales.dim() > 1 else scales[rows.start : rows.stop : rows.step]
        if minima is not None:
            minima = units.pop(0)
        return Matrix(self.format, values, scales, minima)

    def pack(self) -> Matrix:
        """Puts the rows into panels, in place, and says so: this matrix is not to be looked at again."""
        for part in self._units():
            panels.pack(part)
        return replace(self, packed=range(self.rows))

    def take(self, rows: slice) -> Matrix:
        """Some of the rows.

        Raises:
            ValueError: in fp8_block, where 128 rows share scales, unless they are whole blocks of them.
        """
        if self.packed is not None:
            return replace(self, packed=self.packed[rows])
        scaled = rows
        if self.format is WeightFormat.FP8_BLOCK:
            start, stop, step = rows.indices(self.rows)
            if step != 1 or start % BLOCK or (stop % BLOCK and stop != self.rows):
                raise ValueError(f"rows of fp8_block share scales: take whole blocks of {BLOCK}")
            scaled = slice(start // BLOCK, -(-stop // BLOCK))
        return replace(
            self,
            values=self.values[rows],
            scales=None if self.scales is None else self.scales[scaled],
            minima=None if self.minima is None else self.minima[rows],
        )

    def _units(self) -> list[torch.Tensor]:
        """What panels keep together, as views [N, U]: four bytes of values; one scale, where a row has several; one minimum."""
        units = [self.values.flatten(1).view(torch.int32)]
        units += [part for part in (self.scales, self.minima) if part is not None and part.dim() > 1]
        return units
