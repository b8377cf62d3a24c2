"""What is opened agrees with float64 in every format, layout and activation, and with what the result was computed from."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.kernels import native_opening, opening
from folkmoot.kernels.activation import activate
from folkmoot.kernels.by_rows import by_rows
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.first_products import FirstProducts
from folkmoot.kernels.formats import Activation, ExpertSpec, Layout, WeightFormat
from folkmoot.kernels.opening import open_expert, stands_in
from folkmoot.kernels.quantize import dequantize
from folkmoot.kernels.whole_inputs import WHOLE
from folkmoot.tests.support.expert_oracle import ALL_FORMS, opened, random_bytes, relative_error, unit
from folkmoot.tests.support.native_isas import available, forced

TIGHT = 1.5e-6
"""Relative error of a row that is computed in float32 throughout; the trust model allows 3.4e-6."""


@pytest.mark.parametrize(("form", "layout", "activation"), ALL_FORMS)
@given(
    hidden=st.integers(1, 48),
    intermediate=st.integers(1, 48),
    rows=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=10, deadline=None)
def test_openings_agree_with_float64(
    form: WeightFormat,
    layout: Layout,
    activation: Activation,
    hidden: int,
    intermediate: int,
    rows: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    if unit(form) > 1:
        hidden, intermediate = (1 + hidden % 3) * unit(form), (1 + intermediate % 3) * unit(form)
    spec = ExpertSpec(hidden, intermediate, form, layout, activation)
    data = random_bytes(spec, seed)
    x = torch.randn(rows, hidden, generator=torch.Generator().manual_seed(seed)).to(dtype)
    got, want = open_expert(Expert.load(spec, data), x), opened(spec, data, x)
    for mine, theirs, terms in zip(got, want, opened(spec, data, x, magnitudes=True), strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None and terms is not None:
            assert mine.dtype == torch.float32 and mine.shape == (rows, intermediate)
            # A product that cancels is small against its terms: so few numbers are judged against those.
            assert float((mine.double() - theirs).norm()) <= TIGHT * float(terms.norm())


@pytest.mark.parametrize(("form", "layout", "activation"), ALL_FORMS)
def test_slices_of_neurons_make_the_whole(
    form: WeightFormat, layout: Layout, activation: Activation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "SLICE", 128)
    monkeypatch.setattr(native_opening, "load", lambda: None)
    spec = ExpertSpec(192, 288, form, layout, activation)
    data, x = random_bytes(spec, 3), torch.randn(5, 192, generator=torch.Generator().manual_seed(3))
    for mine, theirs in zip(open_expert(Expert.load(spec, data), x), opened(spec, data, x), strict=True):
        if mine is not None and theirs is not None:
            assert relative_error(mine, theirs) <= TIGHT


NATIVE = [kind for kind in ALL_FORMS if kind[0] not in WHOLE and kind[1].row_major]


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize(("form", "layout", "activation"), NATIVE)
@pytest.mark.parametrize("rows", [1, 3, 17, 24])
def test_native_products_are_in_float32_with_every_instruction_set(
    form: WeightFormat, layout: Layout, activation: Activation, isa: str, rows: int
) -> None:
    spec = ExpertSpec(544, 288, form, layout, activation)
    data = random_bytes(spec, rows)
    x = torch.randn(rows, 544, generator=torch.Generator().manual_seed(rows))
    x[:, 7] *= 40
    expert = Expert.load(spec, data)
    with forced(isa):
        matrices = [matrix for role, (matrix, _) in by_rows(expert).items() if role != "down"]
        assert native_opening.products(expert, matrices, x) is not None
        for mine, theirs in zip(open_expert(expert, x), opened(spec, data, x), strict=True):
            if mine is not None and theirs is not None:
                assert relative_error(mine, theirs) <= TIGHT


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize(("form", "layout", "activation"), ALL_FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_left_while_computing_is_what_would_be_opened(
    form: WeightFormat, layout: Layout, activation: Activation, dtype: torch.dtype, isa: str
) -> None:
    spec = ExpertSpec(544, 288, form, layout, activation)
    data = [random_bytes(spec, seed) for seed in range(3)]
    # The second expert's rows are shared, apart and out of order; the third has enough of them for matrix tiles; one has none.
    rows = [
        torch.tensor([4]),
        torch.tensor([7, 4, 30]),
        torch.arange(2, 12),
        torch.empty(0, dtype=torch.int64),
    ]
    x = torch.randn(31, 544, generator=torch.Generator().manual_seed(3)).to(dtype)
    with forced(isa):
        experts = [Expert.load(spec, one) for one in (*data, data[0])]
        groups = [
            Group(expert, some, torch.ones(len(some))) for expert, some in zip(experts, rows, strict=True)
        ]
        total = sum(map(len, rows))
        gate, up = torch.full((2, total, 288), 7.0)
        first = FirstProducts(gate.data_ptr(), up.data_ptr(), total)
        output = feed_forward(groups, x, first)
        assert torch.equal(output, feed_forward(groups, x))
        assert first.filled == (form not in WHOLE)
        assert bool((up == 7).all()) == (not first.filled)
        assert bool((gate == 7).all()) == (not first.filled or layout is Layout.UNGATED)
        start = 0
        for expert, some in zip(data, rows, strict=False):
            end = start + len(some)
            for mine, theirs in zip((gate, up), opened(spec, expert, x[some]), strict=True):
                if theirs is not None and first.filled:
                    assert relative_error(mine[start:end], theirs) <= TIGHT
            start = end


def room(pairs: int) -> tuple[torch.Tensor, FirstProducts]:
    both = torch.full((2, pairs, 64), 7.0)
    return both, FirstProducts(both[0].data_ptr(), both[1].data_ptr(), pairs)


def two_groups(rows: int) -> list[Group]:
    spec = ExpertSpec(64, 64, WeightFormat.FLOAT32, Layout.SEPARATE)
    experts = [Expert.load(spec, random_bytes(spec, seed)) for seed in range(2)]
    return [
        Group(experts[0], torch.arange(1), torch.ones(1)),
        Group(experts[1], torch.arange(rows), torch.ones(rows)),
    ]


def test_where_torch_computes_some_of_it_nothing_is_left() -> None:
    both, first = room(201)
    feed_forward(two_groups(200), torch.randn(200, 64), first)
    assert not first.filled
    assert bool((both == 7).all())


@pytest.mark.skipif(not available(), reason="no native kernels here")
def test_room_for_other_pairs_is_refused_and_what_fails_fills_nothing() -> None:
    both, first = room(2)
    with pytest.raises(ValueError, match="3 pairs, and room for 2"):
        feed_forward(two_groups(2), torch.randn(2, 64), first)
    assert bool((both == 7).all())
    _, first = room(3)
    with pytest.raises(IndexError):
        feed_forward(two_groups(2), torch.randn(1, 64), first)
    assert not first.filled


def test_without_native_kernels_torch_opens_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ExpertSpec(96, 64, WeightFormat.BFLOAT16, Layout.SEPARATE)
    expert, x = Expert.load(spec, random_bytes(spec, 1)), torch.randn(4, 96)
    before = open_expert(expert, x)
    monkeypatch.setattr(native_opening, "load", lambda: None)
    for mine, theirs in zip(before, open_expert(expert, x), strict=True):
        assert mine is not None and theirs is not None
        assert relative_error(mine, theirs.double()) <= TIGHT


@pytest.mark.parametrize(("form", "layout", "activation"), ALL_FORMS)
@pytest.mark.parametrize("rows", [1, 40])
def test_a_result_follows_from_what_is_opened(
    form: WeightFormat, layout: Layout, activation: Activation, rows: int
) -> None:
    spec = ExpertSpec(192, 160, form, layout, activation)
    expert = Expert.load(spec, random_bytes(spec, 5))
    x = torch.randn(rows, 192, generator=torch.Generator().manual_seed(5)).bfloat16()
    output = feed_forward([Group(expert, torch.arange(rows), torch.ones(rows))], x)
    matrix, bias = by_rows(expert)["down"]
    follows = activate(spec, *open_expert(expert, x)) @ dequantize(matrix).T
    follows = follows if bias is None else follows + bias.float()
    assert relative_error(output, follows.double()) <= 5.9e-3
    changed = Expert.load(spec, random_bytes(spec, 6))
    assert (
        relative_error(output, (activate(spec, *open_expert(changed, x)) @ dequantize(matrix).T).double())
        > 0.1
    )


def test_what_stands_between_is_the_models_type_only_where_every_result_follows_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever opens rounded numbers that its results do not follow from would be suspected for it."""
    for form, layout, activation in ALL_FORMS:
        spec = ExpertSpec(128, 128, form, layout, activation)
        expert = Expert.load(spec, random_bytes(spec, 1))
        wanted = torch.bfloat16 if form is WeightFormat.BFLOAT16 else torch.float32
        for on_gpu, natively, found in (
            (False, None, wanted),
            (False, object(), torch.float32),
            (True, None, torch.float32),
        ):
            monkeypatch.setattr(torch.cuda, "is_available", partial(bool, on_gpu))
            monkeypatch.setattr(Expert, "native", natively)
            assert stands_in(expert, torch.bfloat16) == found
            assert stands_in(expert, torch.float32) == torch.float32
