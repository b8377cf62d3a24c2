"""Weights in panels mean what they meant row by row, wherever a node looks at them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.kernels import panels
from folkmoot.kernels.backend import Processor
from folkmoot.kernels.by_rows import by_rows
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.formats import Activation, ExpertSpec, Layout, WeightFormat
from folkmoot.kernels.gpu.packing import pack as packed_for_gpus
from folkmoot.kernels.opening import open_expert
from folkmoot.kernels.quantize import dequantize
from folkmoot.kernels.torch_expert import expert_forward
from folkmoot.tests.support.expert_oracle import ALL_FORMS, random_bytes
from folkmoot.tests.support.native_isas import available, forced

IN_PANELS = (WeightFormat.INT8, WeightFormat.INT8_CHANNEL, WeightFormat.INT4, WeightFormat.MXFP4)
FORMS = [form for form in ALL_FORMS if form[0] in IN_PANELS]

with_panels = pytest.mark.skipif(
    "avx512" not in available(), reason="this processor has no AVX512-VNNI, and packs nothing"
)


def both(spec: ExpertSpec, seed: int = 1) -> tuple[Expert, Expert]:
    """The same expert as its bytes lie, and in panels."""
    data = random_bytes(spec, seed)
    packed = Expert.load(spec, bytearray(data))
    assert packed.pack() and packed.packed
    return Expert.load(spec, data), packed


@given(
    panel_count=st.integers(1, 5),
    units=st.integers(1, 7),
    cut=st.tuples(*[st.integers(0, 79)] * 2, st.integers(1, 3)),
)
@settings(deadline=None)
def test_any_rows_come_back_out_of_panels(panel_count: int, units: int, cut: tuple[int, int, int]) -> None:
    rows = torch.arange(panel_count * 16 * units, dtype=torch.int32).view(-1, units)
    packed = rows.clone()
    panels.pack(packed)
    wanted = range(len(rows))[slice(*cut)]
    if wanted:
        assert torch.equal(panels.rows_of(packed, wanted), rows[slice(*cut)])
    assert sorted(packed.flatten().tolist()) == rows.flatten().tolist()


@with_panels
@pytest.mark.parametrize(("form", "layout", "activation"), FORMS)
def test_each_matrix_means_the_same(form: WeightFormat, layout: Layout, activation: Activation) -> None:
    plain, packed = both(ExpertSpec(96, 160, form, layout, activation))
    for (role, (matrix, bias)), (packed_matrix, packed_bias) in zip(
        by_rows(plain).items(), by_rows(packed).values(), strict=True
    ):
        assert (packed_matrix.rows, packed_matrix.columns) == (matrix.rows, matrix.columns), role
        assert torch.equal(dequantize(packed_matrix), dequantize(matrix))
        for some in (slice(3, 70), slice(1, None, 2), slice(5, 5)):
            assert torch.equal(dequantize(packed_matrix.take(some)), dequantize(matrix.take(some)))
        assert all(map(torch.equal, packed_matrix.tensors, matrix.tensors))
        assert (bias is None) == (packed_bias is None)
        if bias is not None and packed_bias is not None:
            assert torch.equal(bias, packed_bias)


@with_panels
@pytest.mark.parametrize(("form", "layout", "activation"), FORMS)
def test_openings_torch_and_gpus_see_the_same(
    form: WeightFormat, layout: Layout, activation: Activation
) -> None:
    plain, packed = both(ExpertSpec(96, 160, form, layout, activation))
    rows = torch.randn(5, 96, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(open_expert(packed, rows), open_expert(plain, rows), strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert torch.equal(mine, theirs)
    assert torch.equal(expert_forward(packed, rows), expert_forward(plain, rows))
    assert torch.equal(packed_for_gpus(packed), packed_for_gpus(plain))


@with_panels
def test_packed_and_plain_experts_answer_one_call_together() -> None:
    spec = ExpertSpec(96, 64, "int4", Layout.SEPARATE)
    (plain, _), (_, packed) = both(spec, 1), both(spec, 2)
    hidden = torch.randn(3, 96, generator=torch.Generator().manual_seed(2))
    groups = [Group(expert, torch.arange(3), torch.ones(3)) for expert in (plain, packed)]
    apart = sum(feed_forward([group], hidden) for group in groups)
    torch.testing.assert_close(feed_forward(groups, hidden), apart)


@with_panels
def test_a_processor_packs_what_it_is_given_once() -> None:
    spec = ExpertSpec(32, 64, "int8", Layout.SEPARATE)
    data = random_bytes(spec, 3)
    memory = bytearray(data)
    expert = Expert.load(spec, memory)
    Processor().prepare(expert)
    once = bytes(memory)
    Processor().prepare(expert)
    assert expert.packed and data != once == bytes(memory)
    assert not expert.weights, "nobody takes packed bytes for canonical ones"


@pytest.mark.parametrize(
    ("form", "sizes", "writable"),
    [
        ("bfloat16", (32, 32), True),
        ("fp8_block", (32, 32), True),
        ("int8_channel", (48, 32), True),
        ("int8_channel", (32, 40), True),
        ("int4", (32, 32), False),
    ],
)
def test_what_has_no_panels_or_may_not_be_written_stays(
    form: str, sizes: tuple[int, int], writable: bool
) -> None:
    spec = ExpertSpec(*sizes, form, Layout.SEPARATE)
    data = random_bytes(spec, 4)
    memory = bytearray(data) if writable else data
    expert = Expert.load(spec, memory)
    assert not expert.pack() and not expert.packed
    assert bytes(memory) == data and len(expert.weights) == len(spec.tensors())


@with_panels
def test_without_panels_in_its_instruction_set_nothing_is_packed() -> None:
    spec = ExpertSpec(32, 32, "int4", Layout.SEPARATE)
    with forced("avx2"):
        assert not Expert.load(spec, bytearray(random_bytes(spec, 5))).pack()


@with_panels
def test_what_ends_packing_half_way_leaves_nothing_to_compute_with(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ExpertSpec(32, 64, "int8", Layout.SEPARATE)
    expert = Expert.load(spec, bytearray(random_bytes(spec, 6)))
    calls: list[torch.Tensor] = []

    def fail(rows: torch.Tensor) -> None:
        calls.append(rows)
        if len(calls) == 3:
            raise MemoryError

    monkeypatch.setattr(panels, "pack", fail)
    with pytest.raises(MemoryError):
        expert.pack()
    assert not expert.packed and not expert.matrices and not expert.weights and expert.native is None
