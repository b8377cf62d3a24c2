"""The public log on disk: append-only, in the files that it is served from (https://c2sp.org/tlog-tiles).

Guarantees:
- Once `append` has returned, its entries outlive the end of the process and of the machine's power. Whatever ends either,
  at whatever byte, the log opens again at its newest signed checkpoint; what lies beyond is removed.
- Nobody is shown a checkpoint before it and all that it covers is on the disk, so no log that was shown is ever taken
  back; no second checkpoint of one size is ever signed.
- A log whose files do not lead to the root that was signed is refused, never mended.
- One process writes at a time. Memory does not grow with the log.

How: tiles and bundles get names that no checkpoint covers yet, are synced with all folders above them, and only then does
a checkpoint take the place of the one before. `append` is for one thread; `read` for any.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ...errors import CapacityError, TrustError, UnavailableError
from ...trust import merkle
from ...trust.checkpoints import Checkpoint, log_key, open_checkpoint, sign_checkpoint
from ...trust.keys import Identity
from ...trust.log_tiles import (
    CHECKPOINT_PATH,
    HEIGHT,
    WIDTH,
    LogError,
    Tile,
    decode_bundle,
    encode_bundle,
    tile_hashes,
    tile_in,
    tiles_in,
)
from ...trust.merkle import HASH_BYTES
from ...trust.signed_notes import NoteError
from .disk import Disk
from .tree_edge import TreeEdge

log = logging.getLogger(__name__)

MAX_BATCH: Final = WIDTH
"""Entries of one `append`: what a batch that was cut short left behind lies in the last two tiles of a level."""
LOCK_FILE: Final = "lock"
DRAFTS_FOLDER: Final = "drafts"


class LogInUseError(UnavailableError):
    """Another process writes the log."""


class LogDamagedError(TrustError):
    """The log's files are not what was signed."""


class LogNotWrittenError(CapacityError):
    """The disk does not take an entry."""


class LogStore:
    """One coordinator's log."""

    def __init__(self, folder: Path, identity: Identity, disk: Disk | None = None) -> None:
        """Opens the log, or begins it; the folder above is there.

        Raises:
            LogInUseError: when another process writes it.
            LogDamagedError: when it is not as it was signed, or is another coordinator's.
            LogNotWrittenError: when the disk takes nothing.
        """
        self._folder = folder
        self._identity = identity
        self._key = log_key(identity.verifying_key)
        self._disk = disk or Disk()
        self._lock = -1
        self._edge, self._note, self._unsure = TreeEdge(), b"", True
        try:
            self._disk.make_folder(folder)
            self._disk.sync_folder(folder.parent)
            self._lock = _locked(folder / LOCK_FILE)
            self._recover()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise self._not_written(error) from error
            raise

    @property
    def size(self) -> int:
        """How many entries the newest checkpoint covers."""
        return self._edge.size

    def close(self) -> None:
        """Lets others write. Twice is harmless."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def append(self, entries: Sequence[bytes]) -> int:
        """Adds entries, at most `MAX_BATCH`, and returns the index of the first when they are there to stay.

        Raises:
            LogError: when they are too many, or one is too long; the log is as it was.
            LogNotWrittenError: when the disk does not take them. They are not in the log, unless the disk takes nothing any more.
            LogDamagedError: when, after such a fault, the log is not as it was signed.
        """
        if not 0 < len(entries) <= MAX_BATCH:
            raise LogError(f"a batch has 1 to {MAX_BATCH} entries, not {len(entries)}")
        try:
            if self._unsure:
                self._recover()
            before = self._edge.size
            edge, files = self._edge.grown(entries)
            note = self._signed(edge)
            try:
                self._unsure = True
                self._put([(tile.path, data) for tile, data in files])
                self._put([(CHECKPOINT_PATH, note)])
            except OSError:
                # What failed may have been the very last sync: the disk knows whether the checkpoint is there.
                self._recover()
                if self._edge.size == before:
                    raise
        except OSError as error:
            raise self._not_written(error) from error
        self._edge, self._note, self._unsure = edge, note, False
        self._remove_outgrown(before, edge.size)
        return before

    def read(self, path: str) -> bytes | None:
        """What the log serves at a path; None when it serves nothing there. Any thread.

        Raises:
            LogDamagedError: when a file is missing, or is not as long as it must be.
        """
        if path == CHECKPOINT_PATH:
            return self._note
        try:
            tile = Tile.parse(path)
        except LogError:
            return None
        while True:
            size = self._edge.size
            try:
                held = tile_in(size, tile.level, tile.index)
            except LogError:
                return None
            if tile.width > held.width:
                return None
            try:
                return _narrowed(held, tile, (self._folder / held.path).read_bytes())
            except FileNotFoundError as error:
                # A partial tile that has just been outgrown; the wider one begins with the same.
                if size == self._edge.size:
                    raise self._damaged(f"{held.path} is missing") from error
            except LogError as error:
                raise self._damaged(error.message) from error

    def _recover(self) -> None:
        """Goes to the newest checkpoint that is on the disk, and removes what an unfinished batch left behind."""
        drafts = self._folder / DRAFTS_FOLDER
        self._disk.make_folder(drafts)
        for draft in drafts.iterdir():
            self._disk.remove(draft)
        path = self._folder / CHECKPOINT_PATH
        if path.exists():
            note = path.read_bytes()
            edge = self._edge_at(note)
        elif (self._folder / "tile").exists():
            raise self._damaged("it has no checkpoint")
        else:
            edge = TreeEdge()
            note = self._signed(edge)
        self._edge = (
            edge  # before what outgrew partial tiles is removed: whoever reads must look for the wider ones
        )
        self._cut(edge.size)
        # One that was renamed and not synced could still go: it must not be shown before it cannot.
        self._put([(CHECKPOINT_PATH, note)])
        self._note, self._unsure = note, False

    def _edge_at(self, note: bytes) -> TreeEdge:
        """The edge that a checkpoint covers, checked against it."""
        try:
            checkpoint = open_checkpoint(note, self._key)
        except NoteError as error:
            raise self._damaged(f"its checkpoint is not this coordinator's: {error.message}") from error
        size = checkpoint.size
        levels: list[tuple[bytes, ...]] = []
        while size >> HEIGHT * len(levels):
            level = len(levels)
            held = self._unfinished(size, level)
            levels.append(tuple(tile_hashes(held, self._bytes(held))) if held else ())
        held = self._unfinished(size, None)
        try:
            entries = tuple(decode_bundle(held, self._bytes(held))) if held else ()
        except LogError as error:
            raise self._damaged(error.message) from error
        edge = TreeEdge(size, entries, tuple(levels))
        leaves = tuple(merkle.leaf_hash(entry) for entry in entries)
        if edge.root() != checkpoint.root or (levels and leaves != levels[0]):
            raise self._damaged("its newest entries are not those that were signed")
        return edge

    def _unfinished(self, size: int, level: int | None) -> Tile | None:
        hashes = size >> HEIGHT * (level or 0)
        return tile_in(size, level, hashes // WIDTH) if hashes % WIDTH else None

    def _bytes(self, tile: Tile) -> bytes:
        try:
            data = (self._folder / tile.path).read_bytes()
        except FileNotFoundError as error:
            raise self._damaged(f"{tile.path} is missing") from error
        if tile.level is not None and len(data) != tile.width * HASH_BYTES:
            raise self._damaged(f"{tile.path} has {len(data)} bytes")
        return data

    def _cut(self, size: int) -> None:
        """Removes the tiles and bundles that a log of `size` has not, where an unfinished batch may have left some."""
        for level in self._levels():
            hashes = size >> HEIGHT * (level or 0)
            last, width = divmod(hashes, WIDTH)
            if any(path.exists() for path in self._names(Tile(level, last + 2))):
                raise self._damaged(f"its checkpoint, of {size} entries, is older than its tiles")
            for index in range(max(0, last - 1), last + 2):
                full, partial = self._names(Tile(level, index))
                if index >= last:
                    self._disk.remove(full)
                if not partial.is_dir():
                    continue
                kept = partial / str(width) if index == last and width else None
                for path in partial.iterdir():
                    if path != kept:
                        self._disk.remove(path)
                if kept is None:
                    self._disk.remove_folder(partial)

    def _levels(self) -> Iterator[int | None]:
        """The levels that there are folders of."""
        tiles = self._folder / "tile"
        if (tiles / "entries").is_dir():
            yield None
        level = 0
        while (tiles / str(level)).is_dir():
            yield level
            level += 1

    def _names(self, tile: Tile) -> tuple[Path, Path]:
        """Where a full tile lies, and the folder of partial ones."""
        full = self._folder / tile.full.path
        return full, full.with_name(full.name + ".p")

    def _put(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Returns when files are on the disk whole, under their names, and so is every folder on the way to them."""
        folders = set()
        for number, (path, data) in enumerate(files):
            draft, final = self._folder / DRAFTS_FOLDER / str(number), self._folder / path
            self._disk.write(draft, data)
            above = [folder for folder in final.parents if folder.is_relative_to(self._folder)]
            for folder in reversed(above):
                if folder not in folders and not folder.is_dir():
                    self._disk.make_folder(folder)
            # Also those that were there: a batch that was cut short may have made them and never synced them.
            folders.update(above)
            self._disk.replace(draft, final)
        for folder in sorted(folders):
            self._disk.sync_folder(folder)

    def _remove_outgrown(self, before: int, size: int) -> None:
        """Removes the partial tiles in whose place wider ones have come: nothing is lost when they stay."""
        try:
            for level in {tile.level for tile in tiles_in(size, before)}:
                old = self._unfinished(before, level)
                if old is not None:
                    path = self._folder / old.path
                    self._disk.remove(path)
                    if tile_in(size, level, old.index).width == WIDTH and path.parent.is_dir():
                        self._disk.remove_folder(path.parent)
        except OSError as error:
            log.warning("a partial tile that is not needed any more cannot be removed (%s)", error)

    def _signed(self, edge: TreeEdge) -> bytes:
        return sign_checkpoint(Checkpoint(self._key.name, edge.size, edge.root()), self._identity)

    def _damaged(self, what: str) -> LogDamagedError:
        return LogDamagedError(
            f"the public log in {self._folder} is damaged ({what})",
            advice="restore it from a copy; if there is none, move the folder away and tell your readers why",
        )

    def _not_written(self, error: OSError) -> LogNotWrittenError:
        return LogNotWrittenError(
            f"the public log in {self._folder} cannot be written ({error.strerror or error})",
            advice="make room on the disk, and see that this user may write there",
        )


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise LogInUseError(
            f"another process writes the public log in {path.parent}",
            advice="stop the other coordinator, or name another state folder with --state",
        ) from error
    return descriptor


def _narrowed(held: Tile, tile: Tile, data: bytes) -> bytes:
    """The narrower of two tiles of one place, out of the wider."""
    if tile.level is None:
        entries = decode_bundle(held, data)
        return data if tile == held else encode_bundle(entries[: tile.width])
    return b"".join(tile_hashes(held, data)[: tile.width])
