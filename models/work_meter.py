"""How much work a frame is, as both ends of a link count it.

Guarantees: from the same manifest and routing, everybody counts the same whole numbers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..ids import ExpertKey
from .manifest import Manifest


class WorkMeter:
    """Counts the work of one model's frames. For one thread."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._uniform: dict[int, int | None] = {}

    def row_bytes(self, layer: int, experts: npt.NDArray[np.int32]) -> int:
        """The canonical bytes of a frame's experts, each as often as it has rows.

        Args:
            layer: The frame's.
            experts: [P] the expert of each pair; all are in the manifest.
        """
        if layer not in self._uniform:
            sizes = {self._manifest.expert_bytes(key) for key in self._manifest.layers[layer]}
            self._uniform[layer] = sizes.pop() if len(sizes) == 1 else None
        size = self._uniform[layer]
        if size is not None:
            return size * len(experts)
        found, counts = np.unique(experts, return_counts=True)
        return sum(
            int(count) * self._manifest.expert_bytes(ExpertKey(layer, int(expert)))
            for expert, count in zip(found, counts, strict=True)
        )
