"""Quantizing is deterministic, within half a step, and undone as the formats define."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.kernels.expert import Expert
from folkmoot.kernels.formats import ExpertSpec, Layout, WeightFormat
from folkmoot.kernels.matrix import Matrix
from folkmoot.kernels.quantize import MADE_HERE, QuantizationError, dequantize, quantize
from folkmoot.tests.support.expert_oracle import decoded, random_bytes, unit


@pytest.mark.parametrize("form", list(WeightFormat))
def test_dequantizing_gives_what_the_format_says(form: WeightFormat) -> None:
    spec = ExpertSpec(160, 288, form, Layout.SEPARATE)
    data = random_bytes(spec, 11)
    want = decoded(spec, data)
    for role, matrix in Expert.load(spec, data).matrices.items():
        got = dequantize(matrix)
        assert got.dtype == torch.float32
        assert np.array_equal(got.numpy(), want[role].astype(np.float32)), role
        assert (matrix.rows, matrix.columns) == want[role].shape


@pytest.mark.parametrize("form", [form for form in WeightFormat if form is not WeightFormat.FP8_BLOCK])
def test_rows_can_be_taken_apart(form: WeightFormat) -> None:
    spec = ExpertSpec(64, 96, form, Layout.SEPARATE)
    matrix = Expert.load(spec, random_bytes(spec, 2)).matrices["gate"]
    for rows in (slice(0, None, 2), slice(1, None, 2), slice(5, 9), slice(3, 3)):
        assert torch.equal(dequantize(matrix.take(rows)), dequantize(matrix)[rows])


@pytest.mark.parametrize("form", MADE_HERE)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 5),
    size=st.sampled_from([1e-7, 1e-5, 1e-3, 0.02, 1.0, 300.0]),
    shift=st.sampled_from([0.0, 0.5, -3.0]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_no_weight_is_off_by_more_than_half_a_step(
    form: WeightFormat, rows: int, columns: int, size: float, shift: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = (torch.randn(rows, columns * unit(form), generator=generator) + shift) * size
    matrix = quantize(weights, form)
    assert matrix.scales is not None
    error = (dequantize(matrix).double() - weights.double()).abs().reshape(rows, -1, unit(form))
    step = matrix.scales.double().reshape(rows, -1, 1)
    # At the ends of the range a scale that was rounded down adds a sixteenth of a step; float16's smallest number, and
    # the rounding of int4's minimum, are what is left where weights are tiny or far from zero.
    slack = 2.0**-24 * 127 + (
        matrix.minima.double().abs().unsqueeze(2) * 2**-10 if matrix.minima is not None else 0
    )
    assert bool((error <= step * (0.5 + 1 / 16) + slack).all())
    again = quantize(weights.clone(), form)
    assert torch.equal(again.values, matrix.values) and torch.equal(again.scales, matrix.scales)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", MADE_HERE)
def test_what_was_quantized_once_stays_as_it_is(form: WeightFormat) -> None:
    spec = ExpertSpec(512, 512, form, Layout.SEPARATE)
    matrix = Expert.load(spec, random_bytes(spec, 4)).matrices["gate"]
    values = matrix.values.clone()  # both ends of the range in use in every group, as quantizers leave them
    if form is WeightFormat.INT4:
        values[:, 0::16], values[:, 1::16] = 0x0F, 0xF0
    else:
        values[:, 0::32] = 127
    matrix = Matrix(form, values, matrix.scales, matrix.minima)
    again = quantize(dequantize(matrix), form)
    assert torch.equal(again.values, values)
    if form is WeightFormat.INT8_CHANNEL:
        assert torch.allclose(again.scales, matrix.scales, rtol=2**-23, atol=0)  # type: ignore[arg-type]
    else:
        assert torch.equal(again.scales, matrix.scales)  # type: ignore[arg-type]
    assert matrix.minima is None or torch.equal(again.minima, matrix.minima)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", MADE_HERE)
def test_zeros_and_constants_survive(form: WeightFormat) -> None:
    assert bool((dequantize(quantize(torch.zeros(3, 64), form)) == 0).all())
    constant = dequantize(quantize(torch.full((3, 64), 0.25), form))
    assert torch.allclose(constant, torch.tensor(0.25), rtol=1e-3)


@pytest.mark.parametrize("form", MADE_HERE)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused(form: WeightFormat, bad: float) -> None:
    weights = torch.zeros(2, 64)
    weights[1, 3] = bad
    with pytest.raises(QuantizationError, match="infinite or not a number"):
        quantize(weights, form)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(QuantizationError, match="multiple of 32") as error:
        quantize(torch.zeros(2, 40), WeightFormat.INT4)
    assert "int8_channel" in error.value.advice
    with pytest.raises(QuantizationError, match="only read as published"):
        quantize(torch.zeros(2, 32), WeightFormat.MXFP4)
    for form in (WeightFormat.INT8, WeightFormat.INT4):
        with pytest.raises(QuantizationError, match="too large"):
            quantize(torch.full((1, 32), 3e38), form)
    with pytest.raises(QuantizationError, match="too large for float16"):
        quantize(torch.full((1, 4), 1e5), WeightFormat.FLOAT16)
