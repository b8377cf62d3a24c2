"""A public log in memory: every file that such a log serves, by path.

Guarantees: tiles are computed straight from the specification's formula, each hash from the entries below it, with
none of the code that finds its way among tiles; partial tiles are kept for every size at which a checkpoint was
signed.
"""

from __future__ import annotations

from folkmoot.trust import merkle
from folkmoot.trust.checkpoints import Checkpoint, sign_checkpoint
from folkmoot.trust.keys import Identity
from folkmoot.trust.log_tiles import CHECKPOINT_PATH, encode_bundle, tiles_in
from folkmoot.trust.signed_notes import NoteKey

ORIGIN = "log.example/folkmoot"


class MemoryLog:
    """A log whose operator is honest unless its files are changed.

    Attributes:
        files: What it serves, by path.
        entries: All entries.
    """

    def __init__(self, identity: Identity) -> None:
        self.files: dict[str, bytes] = {}
        self.entries: list[bytes] = []
        self._identity = identity
        self.publish([])

    @property
    def key(self) -> NoteKey:
        """What its readers are given."""
        return NoteKey(ORIGIN, self._identity.verifying_key)

    def publish(self, entries: list[bytes]) -> Checkpoint:
        """Appends entries and signs a checkpoint."""
        before = len(self.entries)
        self.entries += entries
        leaves = [merkle.leaf_hash(entry) for entry in self.entries]
        for tile in tiles_in(len(leaves), before):
            first = tile.index * 256
            if tile.level is None:
                self.files[tile.path] = encode_bundle(self.entries[first : first + tile.width])
                continue
            span = 256**tile.level
            self.files[tile.path] = b"".join(
                merkle.root(leaves[place * span : (place + 1) * span])
                for place in range(first, first + tile.width)
            )
        checkpoint = Checkpoint(ORIGIN, len(leaves), merkle.root(leaves))
        self.files[CHECKPOINT_PATH] = sign_checkpoint(checkpoint, self._identity)
        return checkpoint
