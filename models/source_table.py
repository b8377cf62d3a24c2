"""Where on this machine the files of a prepared model lie: `source.json`.

Guarantees: it is about this machine alone, is signed by nobody, and nothing of it goes over the wire; a table that was
decoded refers to no tensor outside the files that it lists, and only to tensors of `TRUNK_TYPES`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..kernels.formats import WeightFormat, matrix_tensors
from .published_forms import FP8, SCALE_INV
from .safetensors_header import BITS, WEIGHT_TYPES, TensorLocation

SOURCE = "source.json"
FORMAT = "folkmoot-source/1"
HERE = "."
TRUNK_TYPES = {*WEIGHT_TYPES, FP8}
"""The types that a trunk's tensors may have, by the safetensors format's names."""


class SourceTableError(ModelError):
    """`source.json` is damaged or was made by another version."""


@dataclass(frozen=True, slots=True)
class TrunkTensor:
    """One tensor of the trunk: its file, first byte, the format's name of its type, and its shape."""

    file: str
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def at(cls, location: TensorLocation) -> TrunkTensor:
        """The same place as a tensor of a checkpoint."""
        return cls(location.file, location.offset, location.dtype, location.shape)

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        """The byte after its last."""
        return self.offset + self.numel * BITS[self.dtype] // 8


def unscaled(trunk: Mapping[str, TrunkTensor]) -> str | None:
    """The first fp8 tensor that is no matrix, or whose scales are missing or not as many as it needs; None when all is well."""
    for name, tensor in trunk.items():
        if tensor.dtype != FP8:
            continue
        scales = trunk.get(name + SCALE_INV)
        if len(tensor.shape) != 2 or scales is None or scales.dtype not in WEIGHT_TYPES:
            return name
        if scales.shape != matrix_tensors(WeightFormat.FP8_BLOCK, "", *tensor.shape)[1].shape:
            return name
    return None


@dataclass(frozen=True)
class SourceTable:
    """Where a prepared model's files lie.

    Attributes:
        manifest: The manifest's digest in hexadecimal, so that files of two models are not mixed up.
        recipe: What the model was prepared from and how; equal recipes make equal models.
        expert_folder: What the file names in the manifest are relative to.
        trunk_folder: What the trunk's file names are relative to.
        trunk_files: The trunk's files and their sizes.
        trunk: Every tensor of the trunk by its published name.
    """

    manifest: str
    recipe: Mapping[str, Any]
    expert_folder: Path
    trunk_folder: Path
    trunk_files: Mapping[str, int]
    trunk: Mapping[str, TrunkTensor]

    def encode(self, folder: Path) -> bytes:
        """The table's bytes, for a prepared model that lies in `folder`; what lies there too may move with it."""
        document = {
            "format": FORMAT,
            "manifest": self.manifest,
            "recipe": self.recipe,
            "expert_folder": HERE if self.expert_folder == folder else str(self.expert_folder),
            "trunk_folder": HERE if self.trunk_folder == folder else str(self.trunk_folder),
            "trunk_files": self.trunk_files,
            "trunk": {
                name: [tensor.file, tensor.offset, tensor.dtype, tensor.shape]
                for name, tensor in self.trunk.items()
            },
        }
        return json.dumps(document).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes, folder: Path) -> SourceTable:
        """Parses what `encode` made.

        Raises:
            SourceTableError: when the bytes are something else, or contradict themselves.
        """
        try:
            document = json.loads(data)
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']!r} is not {FORMAT!r}")
            files = {str(name): int(size) for name, size in document["trunk_files"].items()}
            trunk = {
                str(name): TrunkTensor(file, int(offset), dtype, tuple(int(size) for size in shape))
                for name, (file, offset, dtype, shape) in document["trunk"].items()
            }
            for name, tensor in trunk.items():
                if (
                    tensor.dtype not in TRUNK_TYPES
                    or not 0 <= tensor.offset <= tensor.end <= files[tensor.file]
                ):
                    raise ValueError(f"{name} lies in no file")
            if (bare := unscaled(trunk)) is not None:
                raise ValueError(f"{bare} lacks its scales")
            return cls(
                manifest=str(document["manifest"]),
                recipe=dict(document["recipe"]),
                expert_folder=folder / document["expert_folder"],
                trunk_folder=folder / document["trunk_folder"],
                trunk_files=files,
                trunk=trunk,
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise SourceTableError(
                f"{folder / SOURCE} cannot be read ({type(error).__name__}: {error})",
                advice="prepare the model again: folkmoot model prepare",
            ) from error
