"""The expert feed-forward agrees with a float64 oracle in every layout, activation and weight format."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.kernels.expert import Expert, ExpertBytesError
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.formats import Activation, ExpertSpec, Layout, WeightFormat
from folkmoot.tests.support.expert_oracle import ALL_FORMS, oracle, random_bytes, relative_error, unit

HONEST = {WeightFormat.FLOAT16: 1.2e-3, WeightFormat.BFLOAT16: 5.9e-3}
"""Relative error that an honest node may have on a whole row: for bfloat16, the honest band of the trust model."""
ROUNDING = {WeightFormat.FLOAT16: 2**-8, WeightFormat.BFLOAT16: 2**-5}
"""Bound for rows of a few elements, where roundings do not average out and a product may cancel."""
EXACT = 2e-6
"""Relative error where nothing is rounded to less than float32."""
NEARLY_EXACT = 1e-4
"""The same where the native kernels multiply whole numbers: inputs have 16 bits and a scale for each group of 32."""
EXACT_CANCELLED = 1e-4
QUANTIZED = [form for form in ALL_FORMS if form[0].quantized]


@pytest.mark.parametrize(("form", "layout", "activation"), ALL_FORMS)
@given(
    hidden=st.integers(1, 48),
    intermediate=st.integers(1, 48),
    rows=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=15, deadline=None)
def test_pre_summed_rows_agree_with_float64(
    form: WeightFormat,
    layout: Layout,
    activation: Activation,
    hidden: int,
    intermediate: int,
    rows: int,
    seed: int,
) -> None:
    if unit(form) > 1:
        hidden, intermediate = (1 + hidden % 4) * unit(form), (1 + intermediate % 4) * unit(form)
    spec = ExpertSpec(hidden, intermediate, form, layout, activation)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, hidden, generator=generator)
    x = x.to(
        {WeightFormat.FLOAT32: torch.float32, WeightFormat.FLOAT16: torch.float16}.get(form, torch.bfloat16)
    )
    blobs = [random_bytes(spec, seed + index) for index in range(3)]
    members = [torch.arange(rows), torch.arange(0, rows, 2), torch.tensor([], dtype=torch.int64)]
    gates = [torch.rand(len(member), generator=generator) + 0.1 for member in members]
    groups = [
        Group(Expert.load(spec, blob), member, gate)
        for blob, member, gate in zip(blobs, members, gates, strict=True)
    ]
    want = torch.zeros(rows, hidden, dtype=torch.float64)
    scale = torch.zeros(rows, hidden, dtype=torch.float64)
    for blob, member, gate in zip(blobs, members, gates, strict=True):
        part = oracle(spec, blob, x[member]) * gate.double().unsqueeze(1)
        want.index_add_(0, member, part)
        scale.index_add_(0, member, part.abs())
    got = feed_forward(groups, x)
    assert got.dtype == torch.float32
    # A sum that cancels is small against its terms: the error is judged against the terms.
    floor = 1e-2 * want.numel() ** 0.5  # where an activation all but vanishes, float16 has few bits left
    allowed = ROUNDING.get(form, EXACT_CANCELLED) * (float(scale.norm()) + floor)
    assert float((got.double() - want).norm()) <= allowed


@pytest.mark.parametrize(("form", "layout", "activation"), ALL_FORMS)
@pytest.mark.parametrize("rows", [1, 2, 5, 33])
def test_an_honest_node_stays_in_the_honest_band(
    form: WeightFormat, layout: Layout, activation: Activation, rows: int
) -> None:
    spec = ExpertSpec(192, 160, form, layout, activation)
    data = random_bytes(spec, rows)
    x = torch.randn(rows, 192, generator=torch.Generator().manual_seed(rows))
    x = x.to(
        {WeightFormat.FLOAT32: torch.float32, WeightFormat.FLOAT16: torch.float16}.get(form, torch.bfloat16)
    )
    got = feed_forward([Group(Expert.load(spec, data), torch.arange(rows), torch.ones(rows))], x)
    want = oracle(spec, data, x)
    errors = (got.double() - want).norm(dim=1) / want.norm(dim=1)
    assert float(errors.max()) <= HONEST.get(form, HONEST[WeightFormat.BFLOAT16])


@pytest.mark.parametrize(("form", "layout", "activation"), QUANTIZED)
def test_quantized_weights_meet_wide_rows_without_a_rounding(
    form: WeightFormat, layout: Layout, activation: Activation
) -> None:
    spec = ExpertSpec(192, 160, form, layout, activation)
    data, rows = random_bytes(spec, 7), torch.randn(20, 192, generator=torch.Generator().manual_seed(7))
    got = feed_forward([Group(Expert.load(spec, data), torch.arange(20), torch.ones(20))], rows)
    bound = EXACT if form is WeightFormat.FP8_BLOCK else NEARLY_EXACT
    assert relative_error(got, oracle(spec, data, rows)) <= bound


def test_rows_that_nobody_names_are_zero() -> None:
    spec = ExpertSpec(8, 4, "float32", Layout.SEPARATE)
    group = Group(Expert.load(spec, random_bytes(spec, 1)), torch.tensor([1]), torch.ones(1))
    output = feed_forward([group], torch.randn(3, 8))
    assert output[0].abs().sum() == 0 and output[2].abs().sum() == 0 and output[1].abs().sum() > 0


def test_narrow_weights_meet_wide_rows_without_narrowing_them() -> None:
    spec = ExpertSpec(16, 8, "bfloat16", Layout.SEPARATE)
    data = random_bytes(spec, 3)
    rows = torch.randn(4, 16)
    output = feed_forward([Group(Expert.load(spec, data), torch.arange(4), torch.ones(4))], rows)
    assert relative_error(output, oracle(spec, data, rows)) < 1e-6


def test_views_share_memory_and_leave_read_only_bytes_alone() -> None:
    spec = ExpertSpec(4, 4, "float32", Layout.SEPARATE)
    data = bytearray(random_bytes(spec, 5))
    expert = Expert.load(spec, data)
    data[:4] = b"\0\0\0\0"
    assert expert.weights["gate"][0, 0] == 0
    assert expert.matrices["gate"].values[0, 0] == 0
    assert Expert.load(spec, bytes(data)).weights["down"].shape == (4, 4)


@pytest.mark.parametrize("form", list(WeightFormat))
@pytest.mark.parametrize("change", [-1, 1, -16])
def test_bytes_that_do_not_fit_are_refused(form: WeightFormat, change: int) -> None:
    spec = ExpertSpec(32, 32, form, Layout.SEPARATE)
    data = random_bytes(spec, 5) + b"\0" * 4
    with pytest.raises(ExpertBytesError, match="canonical bytes"):
        Expert.load(spec, data[: spec.expert_bytes + change])


@pytest.mark.parametrize("form", list(WeightFormat))
@pytest.mark.parametrize("part", [0, -1])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_tensor_that_does_not_fit_its_shape_is_refused(form: WeightFormat, part: int, change: int) -> None:
    spec = ExpertSpec(64, 32, form, Layout.UNGATED, Activation.RELU_SQUARED)
    parts = [bytearray(spec.tensor_bytes(tensor)) for tensor in spec.tensors()]
    parts[part] = bytearray(len(parts[part]) + change)
    with pytest.raises(ExpertBytesError, match="bytes, not"):
        Expert(spec, parts)
    with pytest.raises(ExpertBytesError, match="tensors, not"):
        Expert(spec, parts[1:])
