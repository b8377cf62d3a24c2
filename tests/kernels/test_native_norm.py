"""Norms by the native kernels are those of transformers, on every instruction set."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from folkmoot.kernels.native_norm import MOST_NUMBERS, rms_norm
from folkmoot.tests.support.guarded_memory import guarded_tensor
from folkmoot.tests.support.native_isas import available, forced

CLOSE = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""One step of the type: a sum in another order may round the other way."""


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("dtype", CLOSE)
@given(
    rows=st.integers(1, 5), width=st.integers(1, 700), size=st.integers(-12, 12), seed=st.integers(0, 2**31)
)
@settings(max_examples=30, deadline=None)
def test_a_norm_is_transformers(
    isa: str, dtype: torch.dtype, rows: int, width: int, size: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = guarded_tensor((torch.randn(rows, width, generator=generator) * 2.0**size).to(dtype))
    norm = LlamaRMSNorm(width, eps=1e-5).to(dtype)
    norm.weight = torch.nn.Parameter(torch.randn(width, generator=generator).to(dtype), requires_grad=False)
    with forced(isa), torch.inference_mode():
        got = rms_norm(x, norm.weight, norm.variance_epsilon)
        want = norm(x)
    assert got is not None and got.dtype == dtype and got.shape == want.shape
    torch.testing.assert_close(got.float(), want.float(), rtol=CLOSE[dtype], atol=1e-9)
    different = int((got != want).sum())
    assert dtype == torch.float32 or different <= max(2, want.numel() // 20)


def test_what_torch_does_better_or_alone_is_left_to_it() -> None:
    weight = torch.ones(64)
    assert rms_norm(torch.randn(MOST_NUMBERS // 64 + 1, 64), weight, 1e-5) is None
    assert rms_norm(torch.randn(1, 64).double(), weight.double(), 1e-5) is None
    assert rms_norm(torch.randn(1, 64).bfloat16(), weight, 1e-5) is None
    assert rms_norm(torch.randn(1, 32), weight, 1e-5) is None


@pytest.mark.parametrize("isa", available())
def test_a_nan_stays_in_its_row(isa: str) -> None:
    x = torch.ones(2, 40)
    x[0, 39] = float("nan")
    with forced(isa):
        got = rms_norm(x, torch.ones(40), 1e-5)
    assert got is not None and bool(got[0].isnan().all()) and not bool(got[1].isnan().any())
