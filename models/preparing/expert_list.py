"""What a manifest says of experts, before it is a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...kernels.formats import ExpertSpec
from ..manifest import ExpertEntry, SourceFile


@dataclass(frozen=True)
class ExpertList:
    """Every expert of a model, and where it lies.

    Attributes:
        folder: What the names of `files` are relative to.
        files: Files that the entries refer to.
        specs: Forms that the entries refer to.
        entries: Every expert.
        top_k: Experts that one token takes in one layer.
        sliced: True where they are slices of a dense model.
    """

    folder: Path
    files: tuple[SourceFile, ...]
    specs: tuple[ExpertSpec, ...]
    entries: tuple[ExpertEntry, ...]
    top_k: int
    sliced: bool
