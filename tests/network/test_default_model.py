"""The default model, a real one: in float32 three nodes answer a chat as transformers does with the same file on one machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from folkmoot.coordinator.engine.settings import EngineSettings
from folkmoot.models.default_model import fetch_default
from folkmoot.models.prepare import prepare
from folkmoot.models.progress import Silent
from folkmoot.tests.support.whole_network import whole_network

MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]
NEW_TOKENS = 48


@pytest.fixture
def default_gguf(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published file, downloaded once and kept below `build`."""
    monkeypatch.setenv("FOLKMOOT_HOME", str(pytestconfig.rootpath / "build" / "default-model"))
    return fetch_default(Silent())


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is empty again afterwards: pytest would keep gigabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def reference_model(path: Path) -> Any:
    """transformers' model with the weights as transformers reads them; its own way to do both wants one more package."""
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    missing, superfluous = model.load_state_dict(tensors, strict=False)
    assert config.tie_word_embeddings
    assert (missing, superfluous) == (["lm_head.weight"], [])
    model.tie_weights()
    return model


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_network_answers_as_transformers_does(default_gguf: Path, folder: Path) -> None:
    prepared = prepare(str(default_gguf), folder / "prepared", dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(default_gguf.parent, gguf_file=default_gguf.name)
    reference = reference_model(default_gguf)
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt")[
        "input_ids"
    ]
    tokens = reference.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=NEW_TOKENS
    )[0, prompt.shape[1] :]
    expected = tokenizer.decode(tokens, skip_special_tokens=True)
    assert len(expected.split()) > 20, "it speaks"

    # No node can hold all of the model.
    memory_bytes = prepared.manifest.total_expert_bytes * 3 // 4
    async with whole_network(prepared, folder, nodes=0, frame_deadline_s=60) as network:
        for _ in range(3):
            await network.join(memory_bytes=memory_bytes)
        await network.settled(3)
        ask = {"messages": MESSAGES, "max_tokens": NEW_TOKENS, "temperature": 0}
        async with httpx.AsyncClient(base_url=network.coordinator.api_url, timeout=300) as client:
            reply = await client.post("/v1/chat/completions", json={"model": prepared.name, **ask})
        answer = reply.json()
    assert reply.status_code == 200, answer
    assert answer["choices"][0]["message"]["content"] == expected
    assert answer["usage"]["prompt_tokens"] == prompt.shape[1]
    assert answer["usage"]["completion_tokens"] == NEW_TOKENS
    account = answer["folkmoot"]
    assert len(account["nodes"]) >= 2
    # A step is a call of each layer, and yields one token and the drafts that were kept.
    steps = NEW_TOKENS // (1 + EngineSettings().max_draft_tokens)
    assert account["results_verified"] >= steps * len(prepared.manifest.layers)
    assert (account["results_rejected"], account["retries"]) == (0, 0)
