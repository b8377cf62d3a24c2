"""Preparing takes the memory of a few chunks, however large the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from gguf.constants import GGMLQuantizationType

from folkmoot.tests.support.gguf_files import write_gguf
from folkmoot.tests.support.tiny_models import tiny_checkpoint

PREPARE = """
import json, os, resource, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
torch.set_num_threads(1)
from pathlib import Path
from folkmoot.models.prepare import prepare

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small, large = (json.loads(argument) for argument in sys.argv[1:])
for number, (source, form) in enumerate(small):
    prepare(source, Path(f"prepared-small-{number}"), weight_format=form)
for number, (source, form) in enumerate(large):
    before = peak()
    model = prepare(source, Path(f"prepared-large-{number}"), weight_format=form)
    print(json.dumps([peak() - before, model.manifest.total_expert_bytes]))
"""
LIMIT_BYTES = 30 << 20
WIDE = {"hidden_size": 512, "num_hidden_layers": 4}
F16 = GGMLQuantizationType.F16


def test_a_large_model_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    small = [
        tiny_checkpoint(family, tmp_path / f"small-{family}", intermediate_size=64)
        for family in ("mixtral", "llama")
    ]
    small.append(write_gguf(small[1], tmp_path / "small.gguf", kind=F16))
    mixture = {**WIDE, "intermediate_size": 1024, "dtype": torch.bfloat16}
    dense = {**WIDE, "intermediate_size": 8192, "dtype": torch.bfloat16}
    large = [
        tiny_checkpoint("mixtral", tmp_path / "large-mixtral", **mixture),
        tiny_checkpoint("llama", tmp_path / "large-llama", **dense),
    ]
    large.append(write_gguf(large[1], tmp_path / "large.gguf", kind=F16))
    orders = [
        [
            *((str(path), None) for path in (mixtral, llama, gguf)),
            *((str(path), "int8") for path in (mixtral, llama)),
        ]
        for mixtral, llama, gguf in (small, large)
    ]
    command = [sys.executable, "-c", PREPARE, *(json.dumps(order) for order in orders)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=150)
    published, sliced, gguf, converted, cut = (json.loads(line) for line in done.stdout.splitlines())
    assert min(published[1], sliced[1], gguf[1]) > 3 * LIMIT_BYTES
    assert published[0] < LIMIT_BYTES
    assert sliced[0] < LIMIT_BYTES
    # Pages of the mapped file count as the process's own until the system wants them back.
    assert gguf[0] < 2 * LIMIT_BYTES + large[2].stat().st_size
    assert min(converted[1], cut[1]) > 1.5 * LIMIT_BYTES
    assert converted[0] < LIMIT_BYTES
    assert cut[0] < LIMIT_BYTES
