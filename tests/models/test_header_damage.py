"""Whatever bytes of a header are damaged, the file is read or refused by name, quickly; nothing else happens."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from folkmoot.errors import FolkmootError
from folkmoot.models.preparing.gguf_config import gguf_config
from folkmoot.models.preparing.gguf_header import read_gguf_header
from folkmoot.models.preparing.gguf_weights import GgufWeights
from folkmoot.models.safetensors_header import read_header
from folkmoot.tests.support.gguf_files import write_gguf
from folkmoot.tests.support.tiny_models import tiny_checkpoint

TRIES = 400


def damaged(data: bytes, header_bytes: int, chance: random.Random) -> bytes:
    """A copy with a few bytes of the header changed, or its end cut off."""
    copy = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        copy[chance.randrange(header_bytes)] = chance.choice([0, 1, 9, 0x7F, 0xFF, chance.randrange(256)])
    return bytes(copy[: chance.randrange(len(copy))]) if chance.random() < 0.1 else bytes(copy)


def test_safetensors(tmp_path: Path) -> None:
    data = (tiny_checkpoint("llama", tmp_path) / "model.safetensors").read_bytes()
    header_bytes = 8 + int.from_bytes(data[:8], "little")
    chance, victim, refused = random.Random(5), tmp_path / "victim.safetensors", 0
    for _ in range(TRIES):
        victim.write_bytes(damaged(data, header_bytes, chance))
        size = victim.stat().st_size
        try:
            found = read_header(tmp_path, victim.name)
        except FolkmootError as error:
            refused += 1
            assert "victim.safetensors" in str(error)
            continue
        assert all(place.offset + place.length <= size for place in found.values())
    assert TRIES > refused > TRIES / 2


def test_gguf(tmp_path: Path) -> None:
    data = write_gguf(tiny_checkpoint("llama", tmp_path / "source"), tmp_path / "whole.gguf").read_bytes()
    tokens = data.index(b"tokenizer.ggml.tokens")
    chance, victim, refused = random.Random(6), tmp_path / "victim.gguf", 0
    for _ in range(TRIES):
        victim.write_bytes(damaged(data, tokens if chance.random() < 0.5 else len(data) // 40, chance))
        try:
            header = read_gguf_header(victim)
            config = gguf_config(victim, header, torch.bfloat16)
            weights = GgufWeights(victim, header, config, "bfloat16")
        except FolkmootError:
            refused += 1
            continue
        size = victim.stat().st_size
        assert all(tensor.offset + tensor.length <= size for tensor in header.tensors.values())
        weights.rows(weights.names[0], 0, 1)
    assert TRIES > refused > TRIES / 4
