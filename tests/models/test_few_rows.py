"""The quick modules of a trunk answer as the modules that they stand for, whatever they are asked and in whatever order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRMSNorm
from transformers.models.olmoe.modeling_olmoe import OlmoeRMSNorm

from folkmoot.kernels.native_library import load
from folkmoot.kernels.native_linear import linears
from folkmoot.models import few_rows
from folkmoot.models.few_rows import FewRowsLinear, FewRowsNorm, logits, quicken

needs_native = pytest.mark.skipif(load() is None, reason="no native kernels here")


class Attention(nn.Module):
    """Three layers that read the same input, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(64, 96, bias=True)
        self.k_proj = nn.Linear(64, 32, bias=False)
        self.v_proj = nn.Linear(64, 33, bias=True)
        self.o_proj = nn.Linear(96, 64)
        self.norm = OlmoeRMSNorm(64)
        self.other_norm = GptOssRMSNorm(64)


def quick() -> tuple[Attention, Attention]:
    """The module as it is, and quickened."""
    plain, changed = Attention().requires_grad_(False), Attention().requires_grad_(False)
    changed.load_state_dict(plain.state_dict())
    quicken(changed)
    return plain, changed


def test_layers_are_quickened_and_only_norms_like_llamas() -> None:
    _, changed = quick()
    assert type(changed.o_proj) is FewRowsLinear and not changed.o_proj.followers
    assert changed.q_proj.followers == (changed.k_proj, changed.v_proj)
    assert isinstance(changed.norm, FewRowsNorm) and isinstance(changed.norm, OlmoeRMSNorm)
    assert type(changed.other_norm) is GptOssRMSNorm


@pytest.mark.parametrize("rows", [1, 3, 400])
def test_they_answer_the_same(rows: int) -> None:
    plain, changed = quick()
    x = torch.randn(1, rows, 64)
    for name in ("q_proj", "k_proj", "v_proj", "norm", "other_norm"):
        torch.testing.assert_close(getattr(changed, name)(x), getattr(plain, name)(x), rtol=1e-4, atol=1e-5)


@needs_native
def test_what_was_computed_ahead_answers_no_other_input() -> None:
    plain, changed = quick()
    first, second = torch.randn(1, 64), torch.randn(1, 64)
    changed.q_proj(first)
    torch.testing.assert_close(changed.k_proj(second), plain.k_proj(second), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(changed.v_proj(first), plain.v_proj(first), rtol=1e-4, atol=1e-5)
    changed.v_proj.weight.zero_()
    assert not torch.equal(changed.v_proj(first), plain.v_proj(first)), "an answer is given once"


@needs_native
def test_layers_are_computed_together_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from folkmoot.models import few_rows

    asked: list[int] = []

    def counted(
        x: torch.Tensor, layers: Sequence[tuple[torch.Tensor, torch.Tensor | None]]
    ) -> list[torch.Tensor] | None:
        asked.append(len(layers))
        return linears(x, layers)

    monkeypatch.setattr(few_rows, "linears", counted)
    monkeypatch.setattr(few_rows, "linear", lambda *_: pytest.fail("a layer was computed by itself"))
    _, changed = quick()
    x = torch.randn(1, 64)
    for name in ("q_proj", "k_proj", "v_proj"):
        getattr(changed, name)(x)
    assert asked == [3]


@needs_native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("rows", [1, 5, 200])
def test_logits_are_not_rounded_to_the_models_type(dtype: torch.dtype, rows: int) -> None:
    head = nn.Linear(256, 301, dtype=dtype).requires_grad_(False)
    x = torch.randn(rows, 256).to(dtype)
    found = logits(head, x)
    exact = x.double() @ head.weight.double().T + head.bias.double()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_logits_without_native_kernels_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    head = nn.Linear(64, 33, dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(3, 64).to(torch.bfloat16)
    monkeypatch.setattr(few_rows, "linear", lambda *_: None)
    assert torch.equal(logits(head, x), head(x).float())
