"""What nodes were told to hold, kept over a restart of the coordinator, so that it does not send everyone downloading.

Guarantees: the file appears whole or not at all; one that is damaged, too large or of another model is passed over with a
log line, never an error: it is worth downloads, not correctness.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...ids import ExpertKey, NodeId
from ...models.manifest import Manifest
from .roster import MAX_MEMBERS

log = logging.getLogger(__name__)

PLACEMENT_FILE = "placement.json"
FORMAT = "folkmoot-placement/1"
MAX_PLACEMENT_BYTES = 256 << 20
NODE_ID_CHARACTERS = 64


@dataclass(frozen=True)
class Remembered:
    """What one node lent, and what it was told to hold."""

    memory_bytes: int
    assigned: frozenset[ExpertKey]


class PlacementMemory:
    """The placement of one model in one state folder."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._path = folder / PLACEMENT_FILE
        self._manifest = manifest

    def load(self) -> dict[NodeId, Remembered]:
        """What was saved last for this model; empty when there is nothing that can be used."""
        try:
            with self._path.open("rb") as stream:
                data = stream.read(MAX_PLACEMENT_BYTES + 1)
            if len(data) > MAX_PLACEMENT_BYTES:
                raise ValueError(f"more than {MAX_PLACEMENT_BYTES} bytes")
            document = json.loads(data)
            if document["format"] != FORMAT or document["manifest"] != self._manifest.digest.hex():
                return {}
            nodes = dict(list(document["nodes"].items())[:MAX_MEMBERS])
            return {_node(node): self._remembered(*fields) for node, fields in nodes.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be used (%s); experts are placed anew", self._path, error)
            return {}

    def save(self, nodes: Mapping[NodeId, Remembered]) -> None:
        """Writes what each node was told to hold; a disk that does not take it is only remarked on."""
        document = {
            "format": FORMAT,
            "manifest": self._manifest.digest.hex(),
            "nodes": {node: [known.memory_bytes, _by_layer(known.assigned)] for node, known in nodes.items()},
        }
        draft = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        try:
            draft.write_text(json.dumps(document, separators=(",", ":")))
            draft.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written (%s)", self._path, error.strerror)
            draft.unlink(missing_ok=True)

    def _remembered(self, memory_bytes: int, layers: Mapping[str, Iterable[int]]) -> Remembered:
        keys = {ExpertKey(int(layer), int(expert)) for layer, experts in layers.items() for expert in experts}
        return Remembered(int(memory_bytes), frozenset(keys & self._manifest.experts.keys()))


def _node(text: str) -> NodeId:
    if len(bytes.fromhex(text)) * 2 != NODE_ID_CHARACTERS:
        raise ValueError(f"{text!r} is no node")
    return NodeId(text)


def _by_layer(keys: Iterable[ExpertKey]) -> dict[int, list[int]]:
    layers: dict[int, list[int]] = {}
    for key in sorted(keys):
        layers.setdefault(key.layer, []).append(key.expert)
    return layers
