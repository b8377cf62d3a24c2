"""The native kernels agree with torch at every size and thread count, and their absence changes nothing but speed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.kernels import native_bf16, native_library
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.formats import ExpertSpec, Layout


def has_bf16() -> bool:
    """Whether Linux says that this processor can run the native kernels."""
    info = Path("/proc/cpuinfo")
    return info.exists() and "avx512_bf16" in info.read_text()


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def expert(spec: ExpertSpec, seed: int) -> Expert:
    generator = torch.Generator().manual_seed(seed)
    parts = [
        (torch.randn(tensor.shape, generator=generator) * 0.2).to(tensor.dtype).view(torch.uint8).numpy()
        for tensor in spec.tensors()
    ]
    return Expert(spec, parts)


def test_the_install_builds_the_kernels_where_it_can() -> None:
    if shutil.which("cc") and has_bf16():
        assert native_library.load() is not None
        assert "native" in native_library.describe()


def test_without_the_library_torch_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ExpertSpec(96, 40, "bfloat16", Layout.SEPARATE)
    hidden = torch.randn(3, 96).to(torch.bfloat16)
    groups = [Group(expert(spec, seed), torch.arange(3), torch.rand(3)) for seed in range(4)]
    with_library = feed_forward(groups, hidden)
    monkeypatch.setattr(native_bf16, "load", lambda: None)
    without = feed_forward(groups, hidden)
    assert float((with_library - without).norm() / without.norm()) < 6e-3
    assert native_bf16.linear(hidden, torch.zeros(8, 96, dtype=torch.bfloat16), None) is None


@given(
    rows=st.integers(1, 8),
    inner=st.integers(1, 150),
    outer=st.integers(1, 70),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_linear_is_a_float32_sum_rounded_once(
    rows: int, inner: int, outer: int, bias: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inner, generator=generator).to(torch.bfloat16)
    weight = torch.randn(outer, inner, generator=generator).to(torch.bfloat16)
    shift = torch.randn(outer, generator=generator).to(torch.bfloat16) if bias else None
    got = native_bf16.linear(x, weight, shift)
    if got is None:
        assert not has_bf16()
        return
    want = x.double() @ weight.double().T + (0 if shift is None else shift.double())
    terms = x.double().abs() @ weight.double().abs().T + 1
    assert bool(((got.double() - want).abs() <= want.abs() * 2**-8 + terms * 1e-6).all())


def test_thread_counts_and_callers_at_once_change_nothing(threads: int) -> None:
    spec = ExpertSpec(128, 72, "bfloat16", Layout.FUSED)
    hidden = torch.randn(5, 128).to(torch.bfloat16)
    groups = [Group(expert(spec, seed), torch.tensor([0, 2, 4]), torch.rand(3)) for seed in range(6)]
    torch.set_num_threads(1)
    want = feed_forward(groups, hidden)

    def run(_: int) -> torch.Tensor:
        torch.set_num_threads(threads)
        return feed_forward(groups, hidden)

    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(run, range(200)):
            assert torch.equal(got, want)


def test_a_nan_in_the_input_stays_one() -> None:
    x = torch.full((1, 32), float("nan"), dtype=torch.bfloat16)
    weight = torch.ones(4, 32, dtype=torch.bfloat16)
    got = native_bf16.linear(x, weight, None)
    assert got is None or bool(got.isnan().all())
