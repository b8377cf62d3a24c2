"""The sketches of one model in one epoch: made once, kept on disk, read as audits need them.

Guarantees: a sketch is made from bytes that hash as the manifest says; files are readable by their owner alone, because a
sketch and the public weights give the secret vectors away; one that is damaged, or was made with other vectors, is made
again. May be used from many threads: at worst a sketch is made twice.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Final

from ...ids import ExpertKey
from ...trust.projections import Projections, derive_projections
from ...trust.sketch import ExpertSketch, SketchError
from .canonical_weights import CanonicalExperts
from .expert_sketching import sketch_of
from .private_files import private_folder, write_private

log = logging.getLogger(__name__)

MEMORY_BYTES: Final = 256 << 20
"""Sketches that are kept in memory; the others are read from disk when they are needed."""


class SketchBook:
    """One epoch's sketches.

    Attributes:
        epoch: Which.
        model: What names of the model's folders begin with.
        folder: Where they lie.
    """

    def __init__(
        self, parent: Path, experts: CanonicalExperts, secret: bytes, epoch: int, count: int
    ) -> None:
        """`count` is how many projections a layer has."""
        manifest = experts.manifest
        self.epoch = epoch
        self.model = manifest.digest.hex()[:16]
        self.folder = parent / f"{self.model}-{count}-{epoch}"
        self._experts = experts
        self._secret = secret
        self._count = count
        self._projections: dict[int, Projections] = {}
        self._sketches: OrderedDict[ExpertKey, ExpertSketch] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()

    def projections(self, layer: int) -> Projections:
        """The secret vectors of a layer. Raises KeyError when the model has no experts there."""
        found = self._projections.get(layer)
        if found is None:
            manifest = self._experts.manifest
            spec = manifest.spec_of(manifest.layers[layer][0])
            found = self._projections[layer] = derive_projections(
                self._secret,
                self.epoch,
                manifest.digest,
                layer,
                spec.hidden,
                spec.intermediate,
                self._count,
            )
        return found

    def sketch(self, key: ExpertKey) -> ExpertSketch:
        """An expert's sketch: from memory, from disk, or made now.

        Raises:
            KeyError: when the model has no such expert.
            ModelError: when its weights cannot be read, or are damaged.
            SketchError: when its weights are not finite.
        """
        with self._lock:
            found = self._sketches.get(key)
            if found is not None:
                self._sketches.move_to_end(key)
                return found
        sketch = self._stored(key) or self._make(key)
        with self._lock:
            if key not in self._sketches:
                self._sketches[key] = sketch
                self._held_bytes += _bytes(sketch)
            while self._held_bytes > MEMORY_BYTES and len(self._sketches) > 1:
                self._held_bytes -= _bytes(self._sketches.popitem(last=False)[1])
        return sketch

    def keep(self, key: ExpertKey) -> bool:
        """Sees to it that the sketch is on disk; whether it had to be made. Raises as `sketch` does."""
        if self._stored(key) is not None:
            return False
        self._make(key)
        return True

    def _stored(self, key: ExpertKey) -> ExpertSketch | None:
        path = self._path(key)
        try:
            sketch = ExpertSketch.decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, SketchError) as error:
            log.warning("%s cannot be used (%s); it is made again", path, error)
            return None
        return sketch if sketch.projections == self.projections(key.layer).identity else None

    def _make(self, key: ExpertKey) -> ExpertSketch:
        with self._experts.in_turn:
            sketch = sketch_of(self.projections(key.layer), self._experts.load(key))
        try:
            write_private(private_folder(self.folder) / self._path(key).name, sketch.encode(), durable=False)
        except OSError as error:
            log.warning("the sketch of %s cannot be kept (%s)", key, error.strerror)
        return sketch

    def _path(self, key: ExpertKey) -> Path:
        return self.folder / f"{key.layer}-{key.expert}.sketch"


def _bytes(sketch: ExpertSketch) -> int:
    gate = 0 if sketch.gate is None else sketch.gate.nbytes
    return gate + sketch.up.nbytes + sketch.down.nbytes
