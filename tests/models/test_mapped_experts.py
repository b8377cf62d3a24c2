"""Mapped experts are checked against the manifest when that is asked for, and give their memory back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from folkmoot.ids import ExpertKey
from folkmoot.models.mapped_experts import ChangedExpertError, MappedExperts
from folkmoot.models.prepare import prepare
from folkmoot.tests.support.prepared_models import TinyModels

WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
"""Experts of many pages."""
KEY = ExpertKey(0, 3)


def mapped_bytes(path: Path) -> int:
    """How much of a file this process has in memory through its mappings."""
    kib, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            inside = line.endswith(str(path))
        elif inside and first == "Rss:":
            kib += int(line.split()[1])
    return kib << 10


def test_an_expert_that_is_let_go_takes_no_memory_and_comes_back_the_same(tiny_models: TinyModels) -> None:
    tiny = tiny_models.get("olmoe", **WIDE)
    file, size = tiny.checkpoint / "model.safetensors", tiny.prepared.manifest.expert_bytes(KEY)
    experts = MappedExperts(tiny.prepared)
    held = experts.expert(KEY)
    before = {role: weights.clone() for role, weights in held.weights.items()}
    assert mapped_bytes(file) >= size * 0.9
    experts.let_go(KEY)
    assert mapped_bytes(file) < size / 2
    for role, weights in before.items():
        assert torch.equal(experts.expert(KEY).weights[role], weights)
        assert torch.equal(held.weights[role], weights), "whoever still has it may go on"


def test_a_changed_file_is_found(tiny_models: TinyModels, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_models.get("olmoe").checkpoint, checkpoint)
    prepared = prepare(str(checkpoint), tmp_path / "prepared", slices=None)
    MappedExperts(prepared).check(KEY)
    path, offset, _ = prepared.ranges(KEY)[1]
    with path.open("r+b") as stream:
        stream.seek(offset)
        first = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([first[0] ^ 1]))
    experts = MappedExperts(prepared)
    with pytest.raises(ChangedExpertError, match="layer 0 expert 3"):
        experts.check(KEY)
    experts.check(ExpertKey(0, 2))
