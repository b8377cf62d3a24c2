"""The experts that a node holds in memory, ready to be computed with.

Guarantees: `held_bytes` is the sum of the canonical bytes of the experts held; an expert that is dropped is unmapped as
soon as no computation looks at it. Only the event loop adds; experts are dropped where no frame that may need them is
still waiting (the executor sees to it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..ids import ExpertKey
from ..kernels.expert import Expert

_NONE: Mapping[int, Expert] = {}


class Shelf:
    """Experts by layer and number."""

    def __init__(self) -> None:
        self._layers: dict[int, dict[int, Expert]] = {}
        self._keys: set[ExpertKey] = set()
        self._manifest = b""
        self.held_bytes = 0

    def adopt(self, manifest: bytes) -> None:
        """Holds experts of the manifest of this digest from now on; those of another are dropped."""
        if manifest != self._manifest:
            self.drop(self.held)
            self._manifest = manifest

    def layer(self, layer: int) -> Mapping[int, Expert]:
        """The experts of one layer that are held, by number."""
        return self._layers.get(layer, _NONE)

    @property
    def held(self) -> frozenset[ExpertKey]:
        """All that are held."""
        return frozenset(self._keys)

    def add(self, key: ExpertKey, expert: Expert) -> None:
        """Holds an expert; holding it already is an error of the caller."""
        if key in self._keys:
            raise ValueError(f"{key} is held already")
        self._layers.setdefault(key.layer, {})[key.expert] = expert
        self._keys.add(key)
        self.held_bytes += expert.spec.expert_bytes

    def drop(self, keys: Iterable[ExpertKey]) -> None:
        """Lets experts go; those that are not held are passed over."""
        for key in self._keys.intersection(keys):
            expert = self._layers[key.layer].pop(key.expert)
            self._keys.discard(key)
            self.held_bytes -= expert.spec.expert_bytes

    def trim(self, limit_bytes: int) -> None:
        """Lets experts go until those that are held have no more bytes than this; for when no frame waits."""
        for layer in reversed(list(self._layers)):
            for expert in reversed(list(self._layers[layer])):
                if self.held_bytes <= limit_bytes:
                    return
                self.drop([ExpertKey(layer, expert)])
