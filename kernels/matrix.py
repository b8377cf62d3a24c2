"""A matrix of an expert, in whatever format it is stored.

Guarantees: a `Matrix` is views over stored tensors, never a copy; taking some of its rows gives a matrix again.

Letters: N rows (outputs), K columns (inputs), G groups of 32 inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .formats import WeightFormat


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

    def take(self, rows: slice) -> Matrix:
        """Some of the rows.

        Raises:
            ValueError: in fp8_block, whose scales are not each of one row.
        """
        if self.format is WeightFormat.FP8_BLOCK:
            raise ValueError("rows of fp8_block share scales and cannot be taken apart")
        return replace(
            self,
            values=self.values[rows],
            scales=None if self.scales is None else self.scales[rows],
            minima=None if self.minima is None else self.minima[rows],
        )
