"""A visit to a public log, step by step.

Guarantees: each step is said before the next is begun; the first that does not hold ends the visit. "Sound" is said only
when the checkpoint is signed by the key that was expected, the log begins with all that it had at the last visit, and
every entry that was to be read stands in the tree that was signed, and is signed itself. What is served and is no log ends
as "malformed"; a log that changed, hides or forges anything ends as "broken". Whatever is served, nothing is raised but
what `fetch` raises.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..errors import TrustError
from .checkpoints import Checkpoint, log_key, named_log_key, open_checkpoint
from .keys import VerifyingKey
from .log_entries import KINDS, LogEntry, LoggedStatement
from .log_tiles import CHECKPOINT_PATH, MAX_ENTRY_BYTES, WIDTH, LogError, Tile
from .log_verifier import Fetch, LogVerifier
from .merkle import HASH_BYTES
from .signed_notes import MAX_NOTE_BYTES, NoteError, NoteKey

BUNDLE_BYTES: Final = WIDTH * (2 + MAX_ENTRY_BYTES)


class Finding(StrEnum):
    """How a visit ends."""

    SOUND = "sound"
    BROKEN = "broken"
    MALFORMED = "malformed"

    @property
    def exit_code(self) -> int:
        """What a command that visits ends with."""
        return list(Finding).index(self)


@dataclass(frozen=True, slots=True)
class VisitStep:
    """One step of a visit.

    Attributes:
        name: What was checked.
        held: Whether it is as it must be.
        detail: What was found.
        finding: How the visit ends, in its last step; None before.
    """

    name: str
    held: bool
    detail: str
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """Which entries a visit reads.

    Attributes:
        complete: All, also those that were there at the last visit.
        sample: Only so many, drawn by chance from those that would be read; None reads each.
    """

    complete: bool = False
    sample: int | None = None


def most_bytes(path: str) -> int:
    """The longest answer that can be right at a path of a log."""
    if path == CHECKPOINT_PATH:
        return MAX_NOTE_BYTES
    tile = Tile.parse(path)
    return BUNDLE_BYTES if tile.level is None else tile.width * HASH_BYTES


class LogVisit:
    """One visit.

    Attributes:
        note: The signed checkpoint that was fetched; what the next visit is to be given when this one ends as sound.
        checkpoint: It, once its signature has been checked.
    """

    def __init__(
        self,
        fetch: Fetch,
        kept: bytes | None = None,
        key: VerifyingKey | None = None,
        reading: Reading | None = None,
        draws: random.Random | None = None,
        listen: Callable[[int, LoggedStatement], None] | None = None,
    ) -> None:
        """Args:
        fetch: Reads what the log serves.
        kept: The signed checkpoint of the last visit.
        key: The operator's; of the last visit, or else what the log says itself, by default.
        reading: Which entries to read.
        draws: Where samples come from; the system's randomness by default.
        listen: Is told of each entry that was read and found right, with its index.
        """
        self.note = b""
        self.checkpoint: Checkpoint | None = None
        self._fetch = fetch
        self._kept = kept
        self._given = key
        self._reading = reading or Reading()
        self._draws = draws or random.SystemRandom()
        self._listen = listen

    def steps(self) -> Iterator[VisitStep]:
        """Makes the visit."""
        try:
            known = named_log_key(self._kept) if self._kept is not None else None
            old = open_checkpoint(self._kept, known) if self._kept is not None and known else None
        except NoteError as error:
            yield VisitStep(
                "last visit", False, f"what was kept is damaged: {error.message}", Finding.MALFORMED
            )
            return
        yield VisitStep("last visit", True, f"had {old.size} entries" if old else "this is the first")
        try:
            self.note = self._fetch(CHECKPOINT_PATH) or b""
            named = named_log_key(self.note)
        except NoteError as error:
            yield VisitStep("checkpoint", False, error.message, Finding.MALFORMED)
            return
        yield VisitStep("checkpoint", True, f"{len(self.note)} bytes, of the log {named.name}")
        key = log_key(self._given) if self._given is not None else known or named
        whose = "that was given" if self._given else "of the last visit" if known else "trusted from now on"
        try:
            if known is not None and known != key:
                raise LogError(f"the key {whose} is not that of the last visit, {known.name}")
            new = self.checkpoint = open_checkpoint(self.note, key)
        except TrustError as error:
            yield VisitStep("signature", False, error.message, Finding.BROKEN)
            return
        yield VisitStep("signature", True, f"of the key {whose}, {key.key.raw.hex()}")
        yield from self._contents(key, old, new)

    def _contents(self, key: NoteKey, old: Checkpoint | None, new: Checkpoint) -> Iterator[VisitStep]:
        """The steps that look at more than the checkpoint."""
        verifier = LogVerifier(key, self._fetch)
        step = "consistency"
        try:
            if old is not None:
                verifier.check_consistency(old, new)
                yield VisitStep(step, True, f"it begins with the {old.size} entries of the last visit")
            step = "entries"
            found = self._read(verifier, key, old.size if old is not None else 0, new)
        except TrustError as error:
            yield VisitStep(step, False, error.message, Finding.BROKEN)
            return
        root = new.root.hex()
        yield VisitStep(step, True, f"{found}, each signed and in the tree that was signed")
        yield VisitStep("log", True, f"{new.size} entries, root {root}", Finding.SOUND)

    def _read(self, verifier: LogVerifier, key: NoteKey, seen: int, new: Checkpoint) -> str:
        """Reads entries; says how many."""
        start = 0 if self._reading.complete else seen
        sample, counts = self._reading.sample, Counter[str]()
        if sample is None or sample >= new.size - start:
            entries = verifier.entries(new, start)
        else:
            drawn = sorted(self._draws.sample(range(start, new.size), sample))
            entries = (next(verifier.entries(new, index)) for index in drawn)
        for index, encoded in entries:
            entry = LogEntry.decode(encoded)
            entry.verify(key.key.raw)
            counts[KINDS[type(entry.statement)]] += 1
            if self._listen is not None:
                self._listen(index, entry.statement)
        kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS.values() if counts[kind])
        return f"{counts.total()} of {new.size} read{f' ({kinds})' if kinds else ''}"
