"""Checkpoints: a log's signed word on how many entries it has and what they hash to
(https://c2sp.org/tlog-checkpoint).

Guarantees: a checkpoint has one text; one that was parsed gives back the same. A checkpoint is believed only out of a
note that the log's key signed, and only under the log's own origin.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from .keys import Identity, VerifyingKey, WeakKeyError
from .merkle import EMPTY_ROOT, HASH_BYTES
from .signed_notes import MAX_NOTE_BYTES, NoteError, NoteKey, open_note, sign_note

MAX_SIZE: Final = 1 << 62
ORIGIN_PREFIX: Final = "folkmoot/"
_ORIGIN: Final = re.compile(rb"folkmoot/([0-9a-f]{64})")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


class CheckpointError(NoteError):
    """A text is no checkpoint, or one of another log."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log at one size.

    Attributes:
        origin: The log's name.
        size: How many entries it has.
        root: RFC 6962 root over them.
        extensions: Further lines, which mean nothing here.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.root) != HASH_BYTES or not 0 <= self.size <= MAX_SIZE:
            raise CheckpointError(
                f"a log of {self.size} entries with a root of {len(self.root)} bytes cannot be"
            )
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise CheckpointError("a log without entries has another root")
        if not all(line and "\n" not in line for line in (self.origin, *self.extensions)):
            raise CheckpointError("a line of a checkpoint is empty, or is two")

    def text(self) -> str:
        """What is signed."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Reads what `text` made.

        Raises:
            CheckpointError: when it is no checkpoint.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop() or not _SIZE.fullmatch(lines[1]):
            raise CheckpointError("the text is no checkpoint")
        try:
            root = base64.b64decode(lines[2], validate=True)
        except (binascii.Error, ValueError):
            raise CheckpointError("a checkpoint's root is damaged") from None
        if base64.b64encode(root).decode() != lines[2]:
            raise CheckpointError("a checkpoint's root is not canonical base64")
        return cls(lines[0], int(lines[1]), root, tuple(lines[3:]))


def log_key(key: VerifyingKey) -> NoteKey:
    """The name and key of the log of the coordinator that has this key: the name says the key."""
    return NoteKey(ORIGIN_PREFIX + key.raw.hex(), key)


def named_log_key(note: bytes) -> NoteKey:
    """The key that a log says it has, by the first line of its checkpoint: for the first visit, when no other is known.

    Raises:
        NoteError: when the line names no key.
    """
    line = note[: MAX_NOTE_BYTES + 1].partition(b"\n")[0]
    found = _ORIGIN.fullmatch(line)
    if found is None:
        raise CheckpointError("what is served is no checkpoint of a Folkmoot log")
    try:
        return log_key(VerifyingKey(bytes.fromhex(found[1].decode())))
    except WeakKeyError as error:
        raise CheckpointError(error.message) from error


def sign_checkpoint(checkpoint: Checkpoint, identity: Identity) -> bytes:
    """The note that a log serves at `checkpoint`; its key goes by the log's origin."""
    return sign_note(checkpoint.text(), checkpoint.origin, identity)


def open_checkpoint(note: bytes, key: NoteKey) -> Checkpoint:
    """The checkpoint in a note that the log's key has signed.

    Raises:
        NoteError: when it has not, or the note holds no checkpoint of this log.
    """
    checkpoint = Checkpoint.parse(open_note(note, key))
    if checkpoint.origin != key.name:
        raise CheckpointError(f"the checkpoint is of the log {checkpoint.origin[:80]!r}, not of {key.name}")
    return checkpoint
