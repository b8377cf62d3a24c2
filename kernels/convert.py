"""Stores an expert in another weight format.

Guarantees: matrices keep their meaning and roles, biases their values; what was stored column by column is stored row by row
afterwards, because groups that share a scale run along the inputs. Beside the result, no more than `ROWS` rows of a matrix
are in memory in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from .expert import stored_matrix
from .formats import BLOCK, ExpertSpec, WeightFormat
from .quantize import dequantize, quantize

ROWS = 8 * BLOCK


def converted_spec(spec: ExpertSpec, form: WeightFormat) -> ExpertSpec:
    """The form that an expert has after `converted`.

    Raises:
        ValueError: when its sizes do not fit the format.
    """
    return replace(spec, dtype=form.value, layout=spec.layout.by_rows)


def converted(
    spec: ExpertSpec, weights: Mapping[str, torch.Tensor], form: WeightFormat
) -> Iterator[torch.Tensor]:
    """The tensors of an expert in another format, in canonical order.

    Args:
        spec: What it is now.
        weights: Its tensors by role.
        form: A float format, or one of `quantize.MADE_HERE`.

    Raises:
        QuantizationError: a weight cannot be stored so.
    """
    wanted = converted_spec(spec, form)
    for tensor in wanted.tensors():
        if tensor.role.endswith("_bias"):
            yield weights[tensor.role].to(tensor.dtype)
        elif tensor.role in weights and not tensor.role.endswith(("_scales", "_minima")):
            yield from _stored(spec, weights, tensor.role, form)


def _stored(
    spec: ExpertSpec, weights: Mapping[str, torch.Tensor], role: str, form: WeightFormat
) -> Iterator[torch.Tensor]:
    pieces = [quantize(rows, form).tensors for rows in _by_rows(spec, weights, role)]
    for parts in zip(*pieces, strict=True):
        yield torch.cat(parts)


def _by_rows(spec: ExpertSpec, weights: Mapping[str, torch.Tensor], role: str) -> Iterator[torch.Tensor]:
    if spec.layout.row_major:
        matrix = stored_matrix(spec, weights, role)
        for start in range(0, matrix.rows, ROWS):
            yield dequantize(matrix.take(slice(start, start + ROWS)))
    else:
        for columns in torch.split(weights[role], ROWS, dim=1):
            yield columns.T.float().contiguous()
