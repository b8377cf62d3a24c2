"""A folder on this machine as a source: a published checkpoint, or a prepared model.

Guarantees: nothing in the folder is changed, and nothing of it is believed: what is read is checked like what any source
brings. A folder that hangs (a dead network disk) is given up like a silent source. Reading stays off the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import ModelError, UsageError
from ...ids import ExpertKey
from ...models.manifest import MAX_MANIFEST_BYTES, ByteRange, Manifest
from ...models.source_table import SOURCE, SourceTable
from ..tasks import abandonable
from .file_ranges import parts_of
from .weight_source import NotOfferedError, Piece, SourceSilentError, Want

log = logging.getLogger(__name__)

PREPARED_MANIFEST = "manifest.json"
PIECE_BYTES = 1 << 20


class NoSuchFolderError(UsageError):
    """A folder of weights that the settings name is not there."""


@dataclass(frozen=True)
class Place:
    """Where an expert's canonical bytes lie on this machine: ranges of these files."""

    files: tuple[Path, ...]
    ranges: tuple[ByteRange, ...]


class LocalFolder:
    """One folder that the contributor named.

    Raises:
        NoSuchFolderError: when there is no such folder.
    """

    remote = False
    joins = False
    last_resort = False

    def __init__(self, folder: Path, *, stall_s: float) -> None:
        self._folder = folder.expanduser().absolute()
        if not self._folder.is_dir():
            raise NoSuchFolderError(
                f"there is no folder of weights {self._folder}", advice="check the path given with --weights"
            )
        self.name = f"the folder {self._folder}"
        self._stall_s = stall_s
        self._places: dict[bytes, dict[ExpertKey, Place]] = {}

    def offers(self, manifest: Manifest, key: ExpertKey) -> bool:
        """Whether files of the right names and sizes are there, or a prepared model lists the expert's SHA-256."""
        return key in self._places.get(manifest.digest, {})

    async def fetch(self, manifest: Manifest, wants: Sequence[Want]) -> AsyncGenerator[Piece, None]:
        """What is wanted, one expert after another."""
        for want in wants:
            place = self._places[manifest.digest][want.key]
            for part in parts_of(want, place.ranges):
                for done in range(0, part.length, PIECE_BYTES):
                    count = min(PIECE_BYTES, part.length - done)
                    read = partial(_read, place.files[part.file], part.offset + done, count)
                    try:
                        async with asyncio.timeout(self._stall_s):
                            data = await abandonable(read)
                    except TimeoutError:
                        raise SourceSilentError(
                            f"{self.name} brings nothing for {self._stall_s:g} s"
                        ) from None
                    except OSError as error:
                        raise NotOfferedError(
                            f"{place.files[part.file]} cannot be read ({error.strerror})"
                        ) from error
                    if len(data) < count:
                        raise NotOfferedError(f"{place.files[part.file]} has become shorter")
                    yield Piece(part.key, part.canonical + done, data)

    async def look(self, manifest: Manifest) -> None:
        """Finds out what the folder has of a model, as far as names and sizes tell. Until then it offers nothing."""
        if manifest.digest in self._places:
            return
        try:
            async with asyncio.timeout(self._stall_s):
                found = await abandonable(lambda: self._published(manifest) or self._prepared(manifest))
        except TimeoutError:
            log.warning("%s does not answer within %g s: it is not asked", self.name, self._stall_s)
            return
        log.info("%s has %d of %d experts", self.name, len(found), len(manifest.experts))
        self._places[manifest.digest] = found

    def _published(self, manifest: Manifest) -> dict[ExpertKey, Place]:
        files = tuple(self._folder / file.name for file in manifest.files)
        here = {
            index
            for index, (path, file) in enumerate(zip(files, manifest.files, strict=True))
            if _size(path) == file.size
        }
        return {
            key: Place(files, entry.ranges)
            for key, entry in manifest.experts.items()
            if all(part.file in here for part in entry.ranges)
        }

    def _prepared(self, manifest: Manifest) -> dict[ExpertKey, Place]:
        """What a prepared model in the folder has, of this model or of another with experts of the same bytes."""
        try:
            listed = Manifest.decode(_bounded(self._folder / PREPARED_MANIFEST))
            table = SourceTable.decode(_bounded(self._folder / SOURCE), self._folder)
        except OSError:
            return {}
        except ModelError as error:
            log.warning("%s holds no prepared model that can be used: %s", self.name, error)
            return {}
        files = tuple(table.expert_folder / file.name for file in listed.files)
        by_digest = {
            entry.sha256: (entry.ranges, listed.expert_bytes(key)) for key, entry in listed.experts.items()
        }
        found = {}
        for key, entry in manifest.experts.items():
            ranges, size = by_digest.get(entry.sha256, ((), 0))
            if size == manifest.expert_bytes(key):
                found[key] = Place(files, ranges)
        return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _bounded(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_MANIFEST_BYTES + 1)


def _read(path: Path, offset: int, length: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)
