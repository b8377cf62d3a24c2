"""The native library is built and named where it can be, its absence changes nothing but speed, and linear layers by it agree
with float64 on every instruction set."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.kernels import native_feed_forward, native_library, native_linear
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.formats import ExpertSpec, Layout, WeightFormat
from folkmoot.kernels.native_rows import BFLOAT16_BY_TILES, FLOAT32, most_rows
from folkmoot.tests.support.expert_oracle import random_bytes
from folkmoot.tests.support.guarded_memory import guarded_tensor
from folkmoot.tests.support.native_isas import available, forced, threads

PRECISION = {torch.float32: 0.0, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""How far one rounding to a type goes."""
FORMATS = {
    torch.float32: WeightFormat.FLOAT32,
    torch.bfloat16: WeightFormat.BFLOAT16,
    torch.float16: WeightFormat.FLOAT16,
}


def processor_has(flag: str) -> bool:
    """Whether Linux says that this processor has a feature."""
    info = Path("/proc/cpuinfo")
    return info.exists() and flag in info.read_text()


def test_the_install_builds_the_kernels_where_it_can() -> None:
    if shutil.which("cc") and processor_has("avx2"):
        assert native_library.load() is not None
        assert "native" in native_library.describe()
        assert "avx2" in available()
        assert ("avx512" in available()) == processor_has("avx512_vnni")
        assert ("amx" in available()) == processor_has("amx_bf16")


def test_without_the_library_torch_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ExpertSpec(96, 40, "bfloat16", Layout.SEPARATE)
    hidden = torch.randn(3, 96).to(torch.bfloat16)
    groups = [
        Group(Expert.load(spec, random_bytes(spec, seed)), torch.arange(3), torch.rand(3))
        for seed in range(4)
    ]
    with_library = feed_forward(groups, hidden)
    for module in (native_library, native_feed_forward, native_linear):
        monkeypatch.setattr(module, "load", lambda: None)
    without = feed_forward(groups, hidden)
    assert float((with_library - without).norm() / without.norm()) < 6e-3
    assert native_linear.linear(hidden, torch.zeros(8, 96, dtype=torch.bfloat16), None) is None
    assert "torch" in native_library.describe()


def test_an_instruction_set_that_is_not_here_is_refused() -> None:
    library = native_library.load()
    if library is not None:
        assert library.folkmoot_force_isa(b"nothing") != 0


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("dtype", PRECISION)
@given(
    rows=st.integers(1, BFLOAT16_BY_TILES),
    inner=st.integers(1, 300),
    outer=st.integers(1, 150),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_linear_is_a_float32_sum_rounded_once(
    isa: str, dtype: torch.dtype, rows: int, inner: int, outer: int, bias: bool, seed: int
) -> None:
    rows = min(rows, most_rows(FORMATS[dtype], dtype))
    generator = torch.Generator().manual_seed(seed)
    x = guarded_tensor(torch.randn(rows, inner, generator=generator).to(dtype))
    weight = guarded_tensor(torch.randn(outer, inner, generator=generator).to(dtype))
    shift = guarded_tensor(torch.randn(outer, generator=generator).to(dtype)) if bias else None
    with forced(isa):
        got = native_linear.linear(x, weight, shift)
    assert got is not None and got.dtype == dtype
    want = x.double() @ weight.double().T + (0 if shift is None else shift.double())
    terms = x.double().abs() @ weight.double().abs().T + 1
    assert bool(((got.double() - want).abs() <= want.abs() * PRECISION[dtype] + terms * 1e-6).all())


@pytest.mark.parametrize("isa", available())
def test_linear_takes_any_leading_shape_and_rows_that_lie_apart(isa: str) -> None:
    weight = torch.randn(24, 80)[:, :48]
    x = torch.randn(2, 3, 48)
    with forced(isa):
        got = native_linear.linear(x, weight, None)
        assert got is not None and got.shape == (2, 3, 24)
        torch.testing.assert_close(got, torch.nn.functional.linear(x, weight), rtol=1e-4, atol=1e-4)
        empty = native_linear.linear(torch.empty(0, 48), weight, None)
    assert empty is not None and empty.shape == (0, 24)


def test_what_torch_does_better_or_alone_is_left_to_it() -> None:
    weight = torch.randn(8, 32)
    assert native_linear.linear(torch.randn(FLOAT32 + 1, 32), weight, None) is None
    assert native_linear.linear(torch.randn(1, 32).double(), weight.double(), None) is None
    assert native_linear.linear(torch.randn(1, 32).half(), weight, None) is None
    assert native_linear.linear(torch.randn(1, 8), weight.T, None) is None


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("dtype", PRECISION)
def test_a_nan_in_the_input_stays_one(isa: str, dtype: torch.dtype) -> None:
    x = torch.zeros(2, 40, dtype=dtype)
    x[0, 39] = float("nan")
    with forced(isa):
        got = native_linear.linear(x, torch.ones(4, 40, dtype=dtype), None)
    assert got is not None and bool(got[0].isnan().all()) and not bool(got[1].isnan().any())


@pytest.mark.parametrize("isa", available())
def test_callers_at_once_all_get_their_own_answers(isa: str) -> None:
    weight = torch.randn(700, 400).to(torch.bfloat16)
    inputs = [torch.randn(1 + index % 4, 400).to(torch.bfloat16) for index in range(16)]
    with forced(isa), threads(1):
        wants = [native_linear.linear(x, weight, None) for x in inputs]

    def run(index: int) -> bool:
        torch.set_num_threads(1 + index % 3)
        got = native_linear.linear(inputs[index % 16], weight, None)
        want = wants[index % 16]
        return got is not None and want is not None and torch.equal(got, want)

    with forced(isa), ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(400)))


def test_a_forked_child_computes_with_threads_of_its_own() -> None:
    weight, x = torch.randn(500, 200), torch.randn(1, 200)
    if not available():
        return
    with threads(2):
        want = native_linear.linear(x, weight, None)
        child = os.fork()
        if child == 0:
            got = native_linear.linear(x, weight, None)
            os._exit(0 if got is not None and want is not None and torch.equal(got, want) else 1)
        assert os.waitpid(child, 0)[1] == 0
