"""Every native path agrees with float64 in every format and layout, stays inside its arrays, and gives the same bits whatever the
number of threads and callers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.kernels.by_rows import by_rows
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.formats import Activation, ExpertSpec, Layout, WeightFormat
from folkmoot.kernels.native_feed_forward import add_feed_forward
from folkmoot.kernels.quantize import dequantize
from folkmoot.kernels.whole_inputs import WHOLE, rounded_inputs
from folkmoot.tests.support.expert_oracle import ALL_FORMS, oracle, random_bytes, relative_error, unit
from folkmoot.tests.support.guarded_memory import guarded, guarded_tensor
from folkmoot.tests.support.native_isas import available, forced, threads

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
TOLERANCE = 1e-4
"""Relative error of a whole row: float32 sums, and inputs of 16 bits a group where weights are whole numbers."""
CANCELLED = 1e-3
"""The same against the size of the terms, for rows of few elements that may cancel."""


def guarded_expert(spec: ExpertSpec, data: bytes, packed: bool) -> Expert:
    """An expert whose tensors end where memory that may be touched ends; in panels if asked for, and if there are any for it."""
    parts, start = [], 0
    for tensor in spec.tensors():
        end = start + spec.tensor_bytes(tensor)
        parts.append(guarded(data[start:end]).data)
        start = end
    expert = Expert(spec, parts)
    if packed:
        expert.pack()
    return expert


def natively(groups: list[Group], hidden: torch.Tensor) -> torch.Tensor:
    output = guarded_tensor(torch.zeros(hidden.shape))
    add_feed_forward(groups, hidden, output)
    return output


def arrangements(spec: ExpertSpec, data: bytes) -> list[Expert]:
    """The same expert as its bytes lie, and packed where the instruction set in force has panels for it."""
    packed = Expert.load(spec, bytearray(data))
    return [Expert.load(spec, data), *([packed] if packed.pack() else [])]


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize(("form", "layout", "activation"), ALL_FORMS)
@given(
    hidden=st.integers(1, 9),
    intermediate=st.integers(1, 9),
    offsets=st.tuples(st.integers(0, 31), st.integers(0, 31)),
    rows=st.integers(1, 11),
    dtype=st.sampled_from(FLOATS),
    packed=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=12, deadline=None)
def test_pre_summed_rows_agree_with_float64_inside_their_arrays(
    isa: str,
    form: WeightFormat,
    layout: Layout,
    activation: Activation,
    hidden: int,
    intermediate: int,
    offsets: tuple[int, int],
    rows: int,
    dtype: torch.dtype,
    packed: bool,
    seed: int,
) -> None:
    odd = unit(form) == 1
    sizes = (32 * hidden - odd * offsets[0], 32 * intermediate - odd * offsets[1])
    spec = ExpertSpec(*sizes, form, layout, activation)
    generator = torch.Generator().manual_seed(seed)
    x = guarded_tensor(torch.randn(rows, spec.hidden, generator=generator).to(dtype))
    blobs = [random_bytes(spec, seed + index) for index in range(3)]
    members = [torch.randperm(rows, generator=generator), torch.arange(0, rows, 2), torch.arange(0)]
    gates = [torch.rand(len(member), generator=generator) + 0.1 for member in members]
    with forced(isa):
        experts = [guarded_expert(spec, blob, packed) for blob in blobs]
    groups = [
        Group(expert, member, gate) for expert, member, gate in zip(experts, members, gates, strict=True)
    ]
    want = torch.zeros(rows, spec.hidden, dtype=torch.float64)
    scale = torch.zeros(rows, spec.hidden, dtype=torch.float64)
    for blob, member, gate in zip(blobs, members, gates, strict=True):
        part = oracle(spec, blob, x[member]) * gate.double().unsqueeze(1)
        want.index_add_(0, member, part)
        scale.index_add_(0, member, part.abs())
    with forced(isa), threads(1 + seed % 2):
        got = natively(groups, x)
    floor = want.numel() ** 0.5
    assert float((got.double() - want).norm()) <= CANCELLED * (float(scale.norm()) + floor)


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize(("form", "layout", "activation"), ALL_FORMS)
@pytest.mark.parametrize("rows", [1, 4, 9, 40])
def test_a_row_is_far_more_exact_than_the_honest_band(
    isa: str, form: WeightFormat, layout: Layout, activation: Activation, rows: int
) -> None:
    spec = ExpertSpec(640, 352, form, layout, activation)
    data = random_bytes(spec, rows)
    x = torch.randn(rows, 640, generator=torch.Generator().manual_seed(rows)).to(torch.bfloat16)
    want = oracle(spec, data, x)
    with forced(isa):
        for expert in arrangements(spec, data):
            assert expert.native is not None
            got = natively([Group(expert, torch.arange(rows), torch.ones(rows))], x)
            errors = (got.double() - want).norm(dim=1) / want.norm(dim=1)
            assert float(errors.max()) <= TOLERANCE


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize(("form", "layout", "activation"), ALL_FORMS)
def test_thread_counts_and_callers_at_once_change_no_bit(
    isa: str, form: WeightFormat, layout: Layout, activation: Activation
) -> None:
    spec = ExpertSpec(640, 352, form, layout, activation)
    hidden = torch.randn(5, 640, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    rows = (torch.tensor([0, 2, 4]), torch.tensor([3, 1, 0]), torch.arange(5))
    gates = [torch.rand(len(members)) for members in rows]

    def run(groups: list[Group], count: int) -> torch.Tensor:
        torch.set_num_threads(count)
        return natively(groups, hidden)

    with forced(isa), ThreadPoolExecutor(3) as pool:
        for experts in zip(*(arrangements(spec, random_bytes(spec, seed)) for seed in range(3)), strict=True):
            groups = [Group(*parts) for parts in zip(experts, rows, gates, strict=True)]
            with threads(1):
                want = natively(groups, hidden)
            for got in pool.map(run, [groups] * 12, [1, 2, 3] * 4):
                assert torch.equal(got, want)


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("form", [form for form in WeightFormat if form.quantized])
def test_many_rows_go_through_in_slices(isa: str, form: WeightFormat) -> None:
    spec = ExpertSpec(64, 32, form, Layout.SEPARATE)
    data = [random_bytes(spec, seed) for seed in range(2)]
    x = torch.randn(1300, 64, generator=torch.Generator().manual_seed(2))
    members = [torch.arange(1300), torch.arange(700) + 3]
    want = torch.zeros(1300, 64, dtype=torch.float64)
    for blob, member in zip(data, members, strict=True):
        want.index_add_(0, member, oracle(spec, blob, x[member]))
    with forced(isa), threads(2):
        for experts in zip(*(arrangements(spec, blob) for blob in data), strict=True):
            groups = [
                Group(expert, member, torch.ones(len(member)))
                for expert, member in zip(experts, members, strict=True)
            ]
            assert relative_error(natively(groups, x), want) <= TOLERANCE


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("form", list(WeightFormat))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(isa: str, form: WeightFormat, value: float) -> None:
    spec = ExpertSpec(96, 64, form, Layout.SEPARATE)
    x = torch.randn(2, 96)
    x[0, 95] = value
    with forced(isa):
        for expert in arrangements(spec, random_bytes(spec, 4)):
            got = natively([Group(expert, torch.arange(2), torch.ones(2))], x)
            assert not bool(got[0].isfinite().any()) and bool(got[1].isfinite().all())


def test_fp8_weights_that_are_no_numbers_are_left_to_torch() -> None:
    spec = ExpertSpec(160, 32, WeightFormat.FP8_BLOCK, Layout.SEPARATE)
    data = bytearray(random_bytes(spec, 5))
    data[7] = 0xFF
    expert = Expert.load(spec, data)
    group = Group(expert, torch.arange(1), torch.ones(1))
    assert expert.native is None
    assert bool(feed_forward([group], torch.randn(1, 160)).isnan().all())


def test_a_row_that_is_not_there_is_an_error_and_not_a_crash() -> None:
    spec = ExpertSpec(32, 32, "float32", Layout.SEPARATE)
    expert = Expert.load(spec, random_bytes(spec, 6))
    for row in (2, -1, 1 << 40):
        group = Group(expert, torch.tensor([row]), torch.ones(1))
        with pytest.raises(IndexError):
            feed_forward([group], torch.zeros(2, 32))


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("form", sorted(WHOLE))
def test_inputs_of_whole_numbers_are_rounded_as_is_said(form: WeightFormat, isa: str) -> None:
    hidden, intermediate = 128, 64
    spec = ExpertSpec(hidden, intermediate, form, Layout.UNGATED, Activation.RELU_SQUARED)
    data = random_bytes(spec, 3)
    # One large input a group, so that the others lose most of their bits.
    rows = torch.randn(3, hidden, generator=torch.Generator().manual_seed(3))
    rows[:, ::32] *= 1e4
    rows[0, 32:64] = 0.0
    weights = {
        role: dequantize(matrix).double() for role, (matrix, _) in by_rows(Expert.load(spec, data)).items()
    }

    def follows(inputs: torch.Tensor, rounded: bool) -> torch.Tensor:
        first = rounded_inputs(inputs, form).double() if rounded else inputs.double()
        inner = (first @ weights["up"].T).relu().square().float()
        second = rounded_inputs(inner, form).double() if rounded else inner.double()
        return second @ weights["down"].T

    with forced(isa):
        everyone = Group(guarded_expert(spec, data, False), torch.arange(len(rows)), torch.ones(len(rows)))
        got = natively([everyone], rows)
    assert relative_error(got, follows(rows, True)) < relative_error(got, follows(rows, False)) / 5
