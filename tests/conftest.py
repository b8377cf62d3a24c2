"""Every test runs with one torch thread, a fixed seed, and a Folkmoot home of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# numpy's threads, like torch's: its library reads this when it is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# GPU kernels run through Triton's interpreter, which must be known before Triton is first imported.
os.environ.setdefault("TRITON_INTERPRET", "1")

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
# The same examples on each run, and no clock: a busy machine must not turn a property false.
hypothesis.settings.register_profile("folkmoot", derandomize=True, deadline=None)
hypothesis.settings.load_profile("folkmoot")


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FOLKMOOT_HOME", str(home))
    torch.manual_seed(0)
    yield home
