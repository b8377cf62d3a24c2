"""What is to be prepared and how, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...kernels.formats import WeightFormat
from ..progress import Progress
from ..publication import Publication
from ..source_table import TrunkTensor
from .expert_list import ExpertList

RECIPE_VERSION = 1
"""Raised whenever the same order would give another result than before."""

READ_FROM_FOLDERS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


@dataclass(frozen=True)
class Order:
    """One request to prepare a model.

    Attributes:
        source: The checkpoint folder or GGUF file; absolute.
        name: What the model will be called.
        slices: Into how many experts a dense model is cut; None to choose.
        dtype: The type wanted for the trunk and for weights written anew; None to choose.
        format: The weight format wanted for experts; None to leave published ones as they are.
        progress: Who is told how far the work is.
        published: Where the source's files are published; None when nobody says.
    """

    source: Path
    name: str
    slices: int | None
    dtype: str | None
    format: WeightFormat | None
    progress: Progress
    published: Publication | None = None

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The order and the state of its source files, as JSON; equal recipes make equal models."""
        if self.source.is_dir():
            files = sorted(path for pattern in READ_FROM_FOLDERS for path in self.source.glob(pattern))
        else:
            files = [self.source]
        states = {path.name: path.stat() for path in files if path.is_file()}
        recipe: dict[str, Any] = {
            "version": RECIPE_VERSION,
            "source": str(self.source),
            "name": self.name,
            "slices": self.slices,
            "dtype": self.dtype,
            "format": self.format,
            "files": {name: [state.st_size, state.st_mtime_ns] for name, state in states.items()},
        }
        if self.published is not None:
            recipe["published"] = str(self.published)
        return recipe


@dataclass(frozen=True)
class Parts:
    """What a prepared model is made of, before it is written down.

    Attributes:
        family: transformers' `model_type`.
        dtype: The type that the trunk computes in.
        experts: Every expert, and where it lies.
        trunk_folder: What the names of `trunk_files` are relative to.
        trunk_files: Files of the trunk, and their sizes.
        trunk: Every tensor of the trunk by its published name.
    """

    family: str
    dtype: str
    experts: ExpertList
    trunk_folder: Path
    trunk_files: Mapping[str, int]
    trunk: Mapping[str, TrunkTensor]
