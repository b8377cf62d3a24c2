"""What nodes were told to hold, kept over a restart of the coordinator, so that it does not send everyone downloading.

Guarantees: what makes no sense, or is of another model, is passed over with a log line, never an error: it is worth downloads, not
correctness. `save` waits for nothing, and nothing but the changes is kept for it; only what has changed since is written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, delete, select

from ...errors import FolkmootError
from ...ids import ExpertKey, NodeId
from ...models.manifest import Manifest
from .database import Database
from .staging import Group
from .tables import holdings
from .upsert import upsert
from .writer import BooksWriter

log = logging.getLogger(__name__)

MOST_NODES: Final = 100_000
MOST_BYTES: Final = (1 << 63) - 1


@dataclass(frozen=True)
class Remembered:
    """What one node lent, and what it was told to hold."""

    memory_bytes: int
    assigned: frozenset[ExpertKey]


class PlacementMemory:
    """The placement of one model in the books. `load` and `save` are for one thread at a time."""

    def __init__(self, database: Database, writer: BooksWriter, group: Group, manifest: Manifest) -> None:
        self._database = database
        self._writer = writer
        self._group = group
        self._manifest = manifest
        self._digest = manifest.digest.hex()
        self._changes = group.staged(self._write)
        self._known: dict[NodeId, Remembered] = {}

    def load(self) -> dict[NodeId, Remembered]:
        """What was saved last for this model; empty when there is nothing that can be used. Blocks."""
        query = select(holdings).where(holdings.c.manifest == self._digest).limit(MOST_NODES)
        try:
            rows = self._database.read(lambda connection: connection.execute(query).all())
            self._known = {NodeId(row.node): self._remembered(row) for row in rows}
        except (FolkmootError, ValueError, TypeError, AttributeError) as error:
            log.warning("what nodes held cannot be read (%s); experts are placed anew", error)
            self._known = {}
        return dict(self._known)

    def save(self, nodes: Mapping[NodeId, Remembered]) -> None:
        """Keeps what each node was told to hold; forgets those that are not named."""
        known = dict(nodes)
        with self._group.lock:
            for node in self._known.keys() - known.keys():
                self._changes.put(node, (None,))
            for node, remembered in known.items():
                if self._known.get(node) != remembered:
                    self._changes.put(node, (remembered,))
        self._known = known
        self._writer.wake()

    def _remembered(self, row: Any) -> Remembered:
        layers: dict[str, list[int]] = json.loads(row.experts)
        keys = {ExpertKey(int(layer), int(expert)) for layer, experts in layers.items() for expert in experts}
        return Remembered(int(row.memory_bytes), frozenset(keys & self._manifest.experts.keys()))

    def _write(self, connection: Connection, changes: dict[NodeId, tuple[Remembered | None]]) -> None:
        for node in [node for node, (known,) in changes.items() if known is None]:
            connection.execute(
                delete(holdings).where(holdings.c.manifest == self._digest, holdings.c.node == node)
            )
        write_holdings(
            connection,
            self._digest,
            {node: known for node, (known,) in changes.items() if known is not None},
        )


def write_holdings(connection: Connection, manifest: str, nodes: Mapping[NodeId, Remembered]) -> None:
    """Sets what nodes were told to hold of the model with this digest."""
    rows = [
        {
            "manifest": manifest,
            "node": node,
            # A node may say anything of itself; a database has 63 bits for it.
            "memory_bytes": min(max(known.memory_bytes, 0), MOST_BYTES),
            "experts": json.dumps(_by_layer(known.assigned), separators=(",", ":")),
        }
        for node, known in nodes.items()
    ]
    upsert(connection, holdings, rows)


def _by_layer(keys: Iterable[ExpertKey]) -> dict[int, list[int]]:
    layers: dict[int, list[int]] = {}
    for key in sorted(keys):
        layers.setdefault(key.layer, []).append(key.expert)
    return layers
