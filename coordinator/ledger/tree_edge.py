"""The right edge of a log's tree: all that is needed of a log to make it grow.

Guarantees: memory is bounded by one unfinished tile a level and one unfinished bundle, however long the log; an edge never
changes, so one that could not be written is simply forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...trust import merkle
from ...trust.log_tiles import HEIGHT, WIDTH, Tile, encode_bundle, tiles_in


@dataclass(frozen=True, slots=True)
class TreeEdge:
    """The unfinished tiles of a log.

    Attributes:
        size: Entries of the log.
        entries: Those of the unfinished bundle.
        levels: For each level that has hashes, those of its unfinished tile; an empty one where all are finished.
    """

    size: int = 0
    entries: tuple[bytes, ...] = ()
    levels: tuple[tuple[bytes, ...], ...] = ()

    def root(self) -> bytes:
        """The hash of the whole tree."""
        right: list[bytes] = []
        for level in self.levels:
            if hashes := [*level, *right]:
                right = [merkle.root(hashes)]
        return right[0] if right else merkle.EMPTY_ROOT

    def grown(self, entries: Sequence[bytes]) -> tuple[TreeEdge, list[tuple[Tile, bytes]]]:
        """The edge with these entries behind it, and every tile and bundle that the longer log has and this one has not.

        Raises:
            LogError: when an entry is longer than 65,535 bytes.
        """
        growth = _Growth(self)
        for entry in entries:
            growth.add(entry)
        edge = TreeEdge(growth.size, tuple(growth.entries), tuple(map(tuple, growth.levels)))
        partial = [tile for tile in tiles_in(edge.size, self.size) if tile.width < WIDTH]
        return edge, [*growth.finished, *((tile, edge._partial(tile)) for tile in partial)]

    def _partial(self, tile: Tile) -> bytes:
        return encode_bundle(self.entries) if tile.level is None else b"".join(self.levels[tile.level])


class _Growth:
    """An edge while entries are added to it."""

    def __init__(self, edge: TreeEdge) -> None:
        self.size = edge.size
        self.entries = list(edge.entries)
        self.levels = [list(level) for level in edge.levels]
        self.finished: list[tuple[Tile, bytes]] = []

    def add(self, entry: bytes) -> None:
        self.entries.append(entry)
        self.size += 1
        if len(self.entries) == WIDTH:
            self.finished.append((Tile(None, self.size // WIDTH - 1), encode_bundle(self.entries)))
            self.entries.clear()
        self._add_hash(0, merkle.leaf_hash(entry))

    def _add_hash(self, level: int, found: bytes) -> None:
        if level == len(self.levels):
            self.levels.append([])
        hashes = self.levels[level]
        hashes.append(found)
        if len(hashes) == WIDTH:
            index = (self.size >> HEIGHT * level) // WIDTH - 1
            self.finished.append((Tile(level, index), b"".join(hashes)))
            above = merkle.root(hashes)
            hashes.clear()
            self._add_hash(level + 1, above)
