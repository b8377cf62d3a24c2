"""Checking a public log from what it serves.

Guarantees: nothing that the log serves is believed for itself: checkpoints are opened with its key, and hashes and
entries count only as parts of proofs that lead to a checkpoint's root. Whatever is served, nothing but `TrustError`
is raised, and memory is bounded by a few tiles at a time. Reading is one function from path to bytes, so the same
checks run over HTTP, a folder, or memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from . import merkle
from .checkpoints import Checkpoint, open_checkpoint
from .log_tiles import (
    CHECKPOINT_PATH,
    HEIGHT,
    WIDTH,
    LogError,
    Tile,
    decode_bundle,
    tile_hashes,
    tile_in,
)
from .signed_notes import NoteKey

Fetch = Callable[[str], bytes | None]
"""Reads a path below the log's prefix; None when there is nothing."""

_MOST_TILES: Final = 256


class LogVerifier:
    """A reader of one log.

    Args:
        key: The log's name and key.
        fetch: Reads what it serves; must bound what it returns.
    """

    def __init__(self, key: NoteKey, fetch: Fetch) -> None:
        self._key = key
        self._fetch = fetch
        self._tiles: dict[Tile, list[bytes]] = {}

    def checkpoint(self) -> Checkpoint:
        """The log's newest checkpoint, its signature checked.

        Raises:
            LogError: when there is none.
            NoteError: when it is not the log's.
        """
        note = self._fetch(CHECKPOINT_PATH)
        if note is None:
            raise LogError("the log serves no checkpoint", advice="check the log's address")
        return open_checkpoint(note, self._key)

    def check_consistency(self, old: Checkpoint, new: Checkpoint) -> None:
        """Returns when the log at `new` begins with all entries that it had at `old`.

        Raises:
            ConsistencyError: when it does not: the log was rewritten.
            LogError: when it does not serve what would show that.
        """
        proof = []
        if 0 < old.size < new.size:
            ranges = merkle.consistency_ranges(old.size, new.size)
            proof = [self._hash(new.size, start, end) for start, end in ranges]
        merkle.verify_consistency(old.size, old.root, new.size, new.root, proof)

    def check_inclusion(self, entry: bytes, index: int, checkpoint: Checkpoint) -> None:
        """Returns when an entry stands at `index` of the log.

        Raises:
            InclusionError: when it does not.
            LogError: when the log does not serve what would show that.
        """
        ranges = merkle.inclusion_ranges(index, checkpoint.size)
        proof = [self._hash(checkpoint.size, start, end) for start, end in ranges]
        merkle.verify_inclusion(merkle.leaf_hash(entry), index, checkpoint.size, proof, checkpoint.root)

    def entries(self, checkpoint: Checkpoint, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """The log's entries with their indices, from one on; each bundle is checked against the root before it is yielded.

        Raises:
            MerkleError: when a bundle is not what the checkpoint says.
            LogError: when one is missing or damaged.
        """
        for index in range(start // WIDTH, -(-checkpoint.size // WIDTH)):
            tile = tile_in(checkpoint.size, None, index)
            bundle = decode_bundle(*self._served(tile))[: tile.width]
            first = index * WIDTH
            leaves = [merkle.leaf_hash(entry) for entry in bundle]
            if leaves != self._hashes(tile_in(checkpoint.size, 0, index)):
                raise LogError(f"{tile.path} has other entries than the tree")
            # The proof of one leaf is made from all other hashes of its tile, so it binds them all.
            self.check_inclusion(bundle[0], first, checkpoint)
            yield from enumerate(bundle[max(0, start - first) :], max(start, first))

    def _hash(self, size: int, start: int, end: int) -> bytes:
        """The hash of a range of leaves that a tree of `size` has as a subtree, or as its right edge."""
        leaves = end - start
        if leaves & (leaves - 1):
            middle = start + merkle.split(leaves)
            return merkle.node_hash(self._hash(size, start, middle), self._hash(size, middle, end))
        level = (leaves.bit_length() - 1) // HEIGHT
        first, count = start >> HEIGHT * level, leaves >> HEIGHT * level
        tile = tile_in(size, level, first // WIDTH)
        place = first % WIDTH
        return merkle.root(self._hashes(tile)[place : place + count])

    def _hashes(self, tile: Tile) -> list[bytes]:
        found = self._tiles.get(tile)
        if found is None:
            found = tile_hashes(*self._served(tile))[: tile.width]
            while len(self._tiles) >= _MOST_TILES:
                del self._tiles[next(iter(self._tiles))]
            self._tiles[tile] = found
        return found

    def _served(self, tile: Tile) -> tuple[Tile, bytes]:
        """A tile or bundle; the full one in place of a partial one that the log no longer has."""
        for candidate in (tile, tile.full):
            data = self._fetch(candidate.path)
            if data is not None:
                return candidate, data
        raise LogError(f"the log does not serve {tile.path}")
