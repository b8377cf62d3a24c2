"""A model that went through GGUF in float32 answers as the checkpoint that it was converted from does in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from folkmoot.models.local import LocalExperts
from folkmoot.models.prepare import prepare
from folkmoot.models.trunk import Trunk
from folkmoot.tests.support.gguf_files import ARCHITECTURES, write_gguf
from folkmoot.tests.support.tiny_models import tiny_checkpoint
from folkmoot.tests.support.trunk_runner import greedy, packed_logits, random_tokens


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_logits_and_tokens_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    overrides: dict[str, Any] = {"mlp_only_layers": []} if family == "qwen2_moe" else {}
    checkpoint = tiny_checkpoint(family, tmp_path / "source", **overrides)
    path = write_gguf(checkpoint, tmp_path / "tiny.gguf")
    prepared = prepare(str(path), tmp_path / "out", dtype="float32")
    trunk, pool = Trunk.load(prepared), LocalExperts(prepared)
    reference = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager")
    prompt = random_tokens(24, seed=3)
    with torch.no_grad():
        expected = reference(prompt[None]).logits[0]
        answer = reference.generate(prompt[None], max_new_tokens=12, do_sample=False)[0, 24:]
    torch.testing.assert_close(packed_logits(trunk, pool, [prompt])[0], expected, atol=1e-5, rtol=1e-5)
    assert greedy(trunk, pool, prompt, 12) == answer.tolist()
