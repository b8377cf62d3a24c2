"""The backend is chosen in one place, by what the machine has."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from folkmoot.kernels.backend import Processor, choose_backend
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.formats import ExpertSpec, Layout
from folkmoot.tests.support.expert_oracle import random_bytes


def test_without_a_gpu_the_processor_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    backend = choose_backend()
    assert isinstance(backend, Processor) and backend.describe()
    spec = ExpertSpec(32, 64, "int8", Layout.SEPARATE)
    groups = [Group(Expert.load(spec, random_bytes(spec, 0)), torch.arange(2), torch.ones(2))]
    hidden = torch.randn(2, 32)
    assert torch.equal(backend.feed_forward(groups, hidden), feed_forward(groups, hidden))


@pytest.mark.parametrize(
    ("installed", "name"), [(True, "Triton kernels on cuda"), (False, "grouped_mm on cuda")]
)
def test_with_a_gpu_it_computes(installed: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = ModuleSpec("triton", None) if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    assert name in choose_backend().describe()


def test_a_processor_never_imports_triton(tmp_path: Path) -> None:
    program = (
        "import sys, torch; torch.cuda.is_available = lambda: False\n"
        "from folkmoot.kernels.backend import choose_backend; choose_backend()\n"
        "print([name for name in sys.modules if name.startswith(('triton', 'folkmoot.kernels.gpu'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
