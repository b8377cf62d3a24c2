"""The GPU's kernels, run by Triton's interpreter, and the grouped product of torch agree with a float64 oracle in every format,
layout and activation."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.kernels.expert import Expert
from folkmoot.kernels.feed_forward import Group
from folkmoot.kernels.formats import Activation, ExpertSpec, Layout, WeightFormat
from folkmoot.kernels.gpu.feed_forward import TritonFeedForward
from folkmoot.kernels.gpu.grouped_mm import GroupedMm
from folkmoot.kernels.gpu.grouping import schedule
from folkmoot.kernels.gpu.packing import ALIGNMENT, pack, packing
from folkmoot.kernels.gpu.resident import DeviceMemoryError
from folkmoot.tests.support.expert_oracle import ALL_FORMS, oracle, random_bytes, relative_error, unit

EXACT = 2e-6
HONEST = 5.9e-3
BACKENDS = [TritonFeedForward, GroupedMm]
Runner = type[TritonFeedForward] | type[GroupedMm]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def expert(spec: ExpertSpec, seed: int) -> Expert:
    return Expert.load(spec, random_bytes(spec, seed))


@pytest.mark.parametrize(("form", "layout", "activation"), ALL_FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_pre_summed_rows_agree_with_float64(
    form: WeightFormat, layout: Layout, activation: Activation, dtype: torch.dtype, backend: Runner
) -> None:
    size = 32 if unit(form) > 1 else 33
    spec = ExpertSpec(2 * size, 3 * size, form, layout, activation)
    hidden = torch.randn(5, 2 * size, generator=torch.Generator().manual_seed(1)).to(dtype)
    members = [torch.tensor([0, 1, 3, 4]), torch.tensor([], dtype=torch.int64), torch.tensor([1, 4])]
    gates = [torch.rand(len(member)) + 0.1 for member in members]
    groups = [
        Group(expert(spec, seed), rows, chosen)
        for seed, (rows, chosen) in enumerate(zip(members, gates, strict=True))
    ]
    want = torch.zeros(5, 2 * size, dtype=torch.float64)
    for seed, (rows, chosen) in enumerate(zip(members, gates, strict=True)):
        answer = oracle(spec, random_bytes(spec, seed), hidden[rows])
        want.index_add_(0, rows, answer * chosen.double().unsqueeze(1))
    got = backend(DEVICE).feed_forward(groups, hidden)
    assert got.dtype == torch.float32 and got.device.type == "cpu"
    assert relative_error(got, want) <= (EXACT if dtype == torch.float32 else HONEST)
    assert bool((got[2] == 0).all())


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    hidden=st.integers(1, 150),
    intermediate=st.integers(1, 150),
    rows=st.integers(1, 40),
    form=st.sampled_from(list(WeightFormat)),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=15, deadline=None)
def test_every_size_fits(
    backend: Runner, hidden: int, intermediate: int, rows: int, form: WeightFormat, seed: int
) -> None:
    if unit(form) > 1:
        hidden, intermediate = (1 + hidden % 4) * unit(form), (1 + intermediate % 4) * unit(form)
    spec = ExpertSpec(hidden, intermediate, form, Layout.UNGATED, Activation.RELU_SQUARED)
    x = torch.randn(rows, hidden, generator=torch.Generator().manual_seed(seed))
    group = Group(expert(spec, seed), torch.arange(rows).flip(0), torch.ones(rows))
    want = oracle(spec, random_bytes(spec, seed), x)
    got = backend(DEVICE).feed_forward([group], x)
    assert float((got.double() - want).norm()) <= 1e-4 * float(want.norm()) + 1e-6


@given(
    members=st.lists(st.sets(st.integers(0, 9)), min_size=1, max_size=6).filter(any),
    height=st.sampled_from([1, 4, 16]),
)
@settings(max_examples=100, deadline=None)
def test_each_pair_has_one_slot_in_a_block_of_its_expert(members: list[set[int]], height: int) -> None:
    spec = ExpertSpec(1, 1, "float32", Layout.SEPARATE)
    groups = [
        Group(expert(spec, 0), torch.tensor(sorted(rows)), torch.rand(len(rows)) + 1)
        for rows in members
        if rows
    ]
    plan = schedule(groups, 10, height)
    assert len(plan.rows) == len(plan.block_groups) * height
    found = [
        (int(plan.block_groups[slot // height]), int(row)) for slot, row in enumerate(plan.rows) if row >= 0
    ]
    pairs = [(index, int(row)) for index, group in enumerate(groups) for row in group.rows]
    assert sorted(found) == pairs
    for row in range(10):
        slots = [int(slot) for slot in plan.slots[row] if slot >= 0]
        assert slots == sorted(slots) and all(int(plan.rows[slot]) == row for slot in slots)
        assert len(slots) == sum(row == other for _, other in pairs)
        for slot in slots:
            group = groups[int(plan.block_groups[slot // height])]
            assert plan.gates[slot] == group.gates[int((group.rows == row).nonzero())]
    assert bool((plan.gates[plan.rows < 0] == 0).all())


def test_a_row_that_does_not_exist_is_refused() -> None:
    spec = ExpertSpec(4, 4, "float32", Layout.SEPARATE)
    for row in (-1, 3):
        group = Group(expert(spec, 0), torch.tensor([0, row]), torch.ones(2))
        with pytest.raises(IndexError, match="outside of 0 to 2"):
            TritonFeedForward(DEVICE).feed_forward([group], torch.zeros(3, 4))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_do_is_zero(backend: Runner) -> None:
    output = backend(DEVICE).feed_forward([], torch.ones(2, 3, dtype=torch.bfloat16))
    assert output.dtype == torch.float32 and output.shape == (2, 3) and not output.any()


@pytest.mark.parametrize(("form", "layout", "activation"), ALL_FORMS)
def test_packed_tensors_are_aligned_and_apart(
    form: WeightFormat, layout: Layout, activation: Activation
) -> None:
    size = unit(form) if unit(form) > 1 else 7
    spec = ExpertSpec(3 * size, 5 * size, form, layout, activation)
    plan = packing(spec)
    starts = [0] + [
        offset
        for place in plan.places.values()
        for offset in (place.values, place.scales, place.minima, place.bias)
        if offset
    ]
    assert len(set(starts)) == len(starts) and all(start % ALIGNMENT == 0 for start in starts)
    assert pack(expert(spec, 1)).numel() == plan.size >= spec.expert_bytes


def test_an_expert_is_packed_once_and_leaves_with_its_owner() -> None:
    spec = ExpertSpec(8, 8, "bfloat16", Layout.SEPARATE)
    runner = TritonFeedForward(DEVICE)
    groups = [Group(expert(spec, 1), torch.arange(1), torch.ones(1))]
    first = runner.feed_forward(groups, torch.ones(1, 8, dtype=torch.bfloat16))
    buffer = runner._buffers.of(groups[0].expert)
    assert torch.equal(runner.feed_forward(groups, torch.ones(1, 8, dtype=torch.bfloat16)), first)
    assert runner._buffers.of(groups[0].expert) is buffer and len(runner._buffers) == 1
    del groups
    gc.collect()
    assert len(runner._buffers) == 0


def test_a_full_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    runner = TritonFeedForward(DEVICE)
    monkeypatch.setattr(runner, "_run", full)
    group = Group(expert(ExpertSpec(8, 8, "bfloat16", Layout.SEPARATE), 1), torch.arange(1), torch.ones(1))
    with pytest.raises(DeviceMemoryError, match="too little memory") as error:
        runner.feed_forward([group], torch.ones(1, 8))
    assert "less memory" in error.value.advice
