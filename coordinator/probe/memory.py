"""What nodes were right about when they were probed, kept over a restart, so that a node that returns is asked little.

Guarantees: the file appears whole or not at all; one that is damaged, too large or of another model is passed over with a log
line, never an error: it is worth a few more rows, not correctness. For one thread.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterable
from pathlib import Path

from ...ids import ExpertKey, NodeId
from ...models.manifest import Manifest

log = logging.getLogger(__name__)

PROBES_FILE = "probes.json"
FORMAT = "folkmoot-probes/1"
MAX_FILE_BYTES = 256 << 20
MOST_NODES = 100_000


class ProbeMemory:
    """The proven experts of one model's nodes, in one state folder."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Reads what was kept."""
        self._path = folder / PROBES_FILE
        self._manifest = manifest
        self._nodes = self._load()
        self._saved = True

    def of(self, node: NodeId) -> frozenset[ExpertKey]:
        """What a node was right about."""
        return self._nodes.get(node, frozenset())

    def add(self, node: NodeId, keys: Iterable[ExpertKey]) -> None:
        """A node was right about these as well."""
        known = self._nodes.pop(node, frozenset())
        self._nodes[node] = known.union(keys)
        self._saved = self._saved and self._nodes[node] == known
        if len(self._nodes) > MOST_NODES:
            del self._nodes[next(iter(self._nodes))]

    def forget(self, node: NodeId) -> None:
        """A node was wrong: nothing that it was right about counts any more."""
        if self._nodes.pop(node, None) is not None:
            self._saved = False

    def save(self) -> None:
        """Writes what has changed; a disk that does not take it is only remarked on."""
        if self._saved:
            return
        nodes = {node: _by_layer(keys) for node, keys in self._nodes.items()}
        document = {"format": FORMAT, "manifest": self._manifest.digest.hex(), "nodes": nodes}
        draft = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        try:
            draft.write_text(json.dumps(document, separators=(",", ":")))
            draft.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written (%s)", self._path, error.strerror)
            draft.unlink(missing_ok=True)
        self._saved = True

    def _load(self) -> dict[NodeId, frozenset[ExpertKey]]:
        try:
            with self._path.open("rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
            document = json.loads(data)
            if document["format"] != FORMAT or document["manifest"] != self._manifest.digest.hex():
                return {}
            experts = self._manifest.experts.keys()
            return {
                NodeId(node): frozenset(
                    ExpertKey(int(layer), int(expert))
                    for layer, numbers in layers.items()
                    for expert in numbers
                )
                & experts
                for node, layers in list(document["nodes"].items())[:MOST_NODES]
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be used (%s); nodes are probed anew", self._path, error)
            return {}


def _by_layer(keys: Iterable[ExpertKey]) -> dict[int, list[int]]:
    layers: dict[int, list[int]] = {}
    for key in sorted(keys):
        layers.setdefault(key.layer, []).append(key.expert)
    return layers
