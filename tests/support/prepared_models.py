"""Tiny models of every family, prepared: made once, and shared by the tests of a session.

Guarantees: the same family and overrides give the same object; nobody writes into its folders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from folkmoot.models.prepare import prepare
from folkmoot.models.prepared import PreparedModel
from folkmoot.tests.support.tiny_models import tiny_checkpoint

SLICES = 4
"""Into how many experts a tiny dense model is cut."""
DENSE = {"llama", "mistral", "qwen3"}


@dataclass(frozen=True)
class TinyModel:
    """A checkpoint that transformers wrote, and what Folkmoot made of it."""

    checkpoint: Path
    prepared: PreparedModel

    def reference(self, dtype: torch.dtype = torch.float32) -> Any:
        """transformers' own model of the checkpoint."""
        return AutoModelForCausalLM.from_pretrained(self.checkpoint, dtype=dtype, attn_implementation="eager")


class TinyModels:
    """Makes tiny models below a folder, each once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, TinyModel] = {}

    def get(self, family: str, **overrides: Any) -> TinyModel:
        """The model of a family, whose tiny configuration `overrides` changes."""
        name = repr((family, sorted(overrides.items())))
        if name not in self._made:
            folder = self._folder / f"{len(self._made)}-{family}"
            checkpoint = tiny_checkpoint(family, folder / "checkpoint", **overrides)
            slices = SLICES if family in DENSE else None
            prepared = prepare(str(checkpoint), folder / "prepared", slices=slices)
            self._made[name] = TinyModel(checkpoint, prepared)
        return self._made[name]
