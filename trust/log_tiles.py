"""Tiles: how a public log's hashes and entries are cut into files (https://c2sp.org/tlog-tiles).

Guarantees: paths are the specification's to the letter, and `Tile.parse` takes no others, so a path from outside
names a tile or nothing. A tile holds 256 hashes, a partial one 1 to 255; the n-th tile of level l holds the hashes of
the complete subtrees of 256^l entries from entry n * 256^(l + 1) on. An entry bundle is its entries, each behind its
length in two bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import TrustError
from .byte_reader import ByteReader
from .merkle import HASH_BYTES

CHECKPOINT_PATH: Final = "checkpoint"
HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
MAX_LEVEL: Final = 63
MAX_INDEX: Final = 1 << 62
MAX_ENTRY_BYTES: Final = (1 << 16) - 1

_PATH: Final = re.compile(
    r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII
)


class LogError(TrustError):
    """A public log serves what it must not, or not what it must."""


@dataclass(frozen=True, slots=True)
class Tile:
    """The coordinates of a tile.

    Attributes:
        level: From 0, where the leaves' hashes are; None for a bundle of entries.
        index: Within the level.
        width: Hashes or entries in it, 1 to 256.
    """

    level: int | None
    index: int
    width: int = WIDTH

    def __post_init__(self) -> None:
        level = self.level or 0
        if not 0 <= level <= MAX_LEVEL or not 0 <= self.index < MAX_INDEX or not 0 < self.width <= WIDTH:
            raise LogError(f"there is no tile {self.index} of width {self.width} at level {self.level}")

    @property
    def path(self) -> str:
        """Where it is served, below the log's prefix."""
        groups = [f"{self.index % 1000:03}"]
        rest = self.index // 1000
        while rest:
            groups.insert(0, f"x{rest % 1000:03}")
            rest //= 1000
        level = "entries" if self.level is None else str(self.level)
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{level}/{'/'.join(groups)}{partial}"

    @property
    def full(self) -> Tile:
        """The tile that it becomes."""
        return Tile(self.level, self.index)

    @classmethod
    def parse(cls, path: str) -> Tile:
        """The tile that a path names.

        Raises:
            LogError: when it names none.
        """
        found = _PATH.fullmatch(path)
        if not found:
            raise LogError("the path names no tile")
        level, groups, width = found.groups()
        tile = cls(
            None if level == "entries" else int(level),
            int(groups.replace("/", "").replace("x", "")),
            int(width) if width else WIDTH,
        )
        if tile.path != path:
            raise LogError("the path names no tile")
        return tile


def tile_in(size: int, level: int | None, index: int) -> Tile:
    """A tile as wide as a log of `size` entries has it.

    Raises:
        LogError: when such a log has no such tile.
    """
    hashes = size >> HEIGHT * (level or 0)
    return Tile(level, index, min(WIDTH, hashes - index * WIDTH))


def tiles_in(size: int, old_size: int = 0) -> Iterator[Tile]:
    """The tiles and bundles that a log of `size` entries has, and did not have, as wide, when it had `old_size`."""
    levels: list[int | None] = [None, *range(MAX_LEVEL + 1)]
    for level in levels:
        hashes, old = size >> HEIGHT * (level or 0), old_size >> HEIGHT * (level or 0)
        if not hashes:
            return
        if hashes > old:
            for index in range(old // WIDTH, -(-hashes // WIDTH)):
                yield tile_in(size, level, index)


def tile_hashes(tile: Tile, data: bytes) -> list[bytes]:
    """The hashes of a tile.

    Raises:
        LogError: when it has another length.
    """
    if len(data) != tile.width * HASH_BYTES:
        raise LogError(f"{tile.path} has {len(data)} bytes, not {tile.width * HASH_BYTES}")
    return [data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)]


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """The bundle of some entries.

    Raises:
        LogError: when they are more than 256, or one is longer than 65,535 bytes.
    """
    if len(entries) > WIDTH or any(len(entry) > MAX_ENTRY_BYTES for entry in entries):
        raise LogError(f"a bundle has at most {WIDTH} entries of {MAX_ENTRY_BYTES} bytes")
    return b"".join(len(entry).to_bytes(2) + entry for entry in entries)


def decode_bundle(tile: Tile, data: bytes) -> list[bytes]:
    """The entries of a bundle.

    Raises:
        LogError: when there are not exactly as many as the tile is wide.
    """
    reader = ByteReader(data, LogError)
    entries = [reader.take(reader.number(2, MAX_ENTRY_BYTES)) for _ in range(tile.width)]
    reader.finish()
    return entries
