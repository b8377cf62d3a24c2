"""A matrix of an expert, in whatever format it is stored.

Guarantees: a `Matrix` is views over stored tensors, never a copy; taking some of its rows gives a matrix again.

Letters: N rows (outputs), K columns (inputs), G groups of 32 inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

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
    """

    format: WeightFormat
    values: torch.Tensor
    scales: torch.Tensor | None = None
    minima: torch.Tensor | None = None

    @property
    def rows(self) -> int:
        """N."""
        return self.values.shape[0]

    @property
    def columns(self) -> int:
        """K."""
        packed = self.format in (WeightFormat.INT4, WeightFormat.MXFP4)
        return self.values[0].numel() * (2 if packed else 1)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The stored tensors in canonical order."""
        return tuple(part for part in (self.values, self.scales, self.minima) if part is not None)

    def take(self, rows: slice) -> Matrix:
        """Some of the rows.

        Raises:
            ValueError: in fp8_block, where 128 rows share scales, unless they are whole blocks of them.
        """
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
