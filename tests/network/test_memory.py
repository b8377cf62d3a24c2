"""A serving coordinator holds the trunk and no expert: its peak memory stays near the trunk's size, however large the experts,
while two nodes download all of them from it and while it answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import save_file

from folkmoot.models.prepare import prepare
from folkmoot.tests.support.process_network import ProcessNetwork
from folkmoot.tests.support.tiny_models import tiny_tokenizer

ALLOWANCE_BYTES = 600_000_000
TRUNK_SHARE = 1.15
LAYERS, HIDDEN, INTERMEDIATE, EXPERTS, HEADS, VOCABULARY = 2, 1024, 2048, 32, 8, 4096
CONFIG = {
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 8,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
    "eos_token_id": None,
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is empty again afterwards: pytest would keep gigabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def checkpoint(folder: Path) -> Path:
    """A model whose experts are 20 times its trunk, in shards of a layer; the same bytes each time."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    weight_map: dict[str, str] = {}

    def random(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)

    def write(name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))

    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        norms = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
        tensors = {f"{prefix}{name}.weight": torch.ones(HIDDEN, dtype=torch.bfloat16) for name in norms}
        tensors |= {f"{prefix}self_attn.{name}_proj.weight": random(HIDDEN, HIDDEN) for name in "qkvo"}
        tensors[f"{prefix}mlp.gate.weight"] = random(EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            inner = f"{prefix}mlp.experts.{expert}."
            tensors[f"{inner}gate_proj.weight"] = random(INTERMEDIATE, HIDDEN)
            tensors[f"{inner}up_proj.weight"] = random(INTERMEDIATE, HIDDEN)
            tensors[f"{inner}down_proj.weight"] = random(HIDDEN, INTERMEDIATE)
        write(f"layer-{layer}.safetensors", tensors)
    ends = {f"{name}.weight": random(VOCABULARY, HIDDEN) for name in ("model.embed_tokens", "lm_head")}
    write("ends.safetensors", ends | {"model.norm.weight": torch.ones(HIDDEN, dtype=torch.bfloat16)})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    tiny_tokenizer().save_pretrained(folder)
    return folder


def peak_memory_bytes(process: int) -> int:
    """The most memory that a process ever had, pages of mapped files included."""
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def test_a_coordinator_takes_the_trunks_memory_whatever_the_experts(folder: Path) -> None:
    prepared = prepare(str(checkpoint(folder / "checkpoint")), folder / "prepared")
    expert_bytes = prepared.manifest.total_expert_bytes
    trunk_bytes = sum(tensor.nbytes for _, tensor in prepared.trunk_tensors())
    limit_bytes = TRUNK_SHARE * trunk_bytes + ALLOWANCE_BYTES
    assert expert_bytes > 1.2 * limit_bytes, "one copy of the experts in memory would show"
    with ProcessNetwork(prepared.folder, folder, ("ash", "birch"), memory="4GiB") as network:
        state = network.until(lambda state: state["coverage"]["replicated"] == state["coverage"]["experts"])
        assert [node["fetched_bytes"] for node in state["nodes"]] == [expert_bytes, expert_bytes]
        ask = {"model": prepared.name, "prompt": list(range(200)), "max_tokens": 8, "temperature": 0}
        answer = httpx.post(f"{network.api_url}/v1/completions", json=ask, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 8
        coordinator = network.pid("coordinator")
        peak_bytes = peak_memory_bytes(coordinator)
        mapped = Path(f"/proc/{coordinator}/maps").read_text()
    assert "libtorch_cpu" in mapped
    assert "libtriton" not in mapped, "70 MB that no coordinator without a GPU uses"
    assert peak_bytes <= limit_bytes, f"with a trunk of {trunk_bytes} bytes"
