"""Signed notes: text with Ed25519 signatures under it, as C2SP's signed-note has them (https://c2sp.org/signed-note).

Guarantees: `open_note` returns text only when a key that the caller named has signed it, and every signature line
under that key's name and id holds; lines of unknown keys are passed over. A note is bounded, UTF-8, and without
control characters but newlines; base64 is canonical. Whatever the bytes are, nothing but `NoteError` is raised.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Final

from ..errors import TrustError
from .keys import KEY_BYTES, Identity, SignatureError, VerifyingKey, WeakKeyError

MAX_NOTE_BYTES: Final = 64 << 10
MAX_SIGNATURES: Final = 64

_ED25519: Final = b"\1"
_ID_BYTES: Final = 4
_DASH: Final = "\N{EM DASH} "


class NoteError(TrustError):
    """A note is damaged, or is not signed by the key that it should be."""


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A key that signs notes: a name, by custom a URL without scheme, and an Ed25519 key.

    Raises:
        NoteError: when the name cannot stand in a note.
    """

    name: str
    key: VerifyingKey

    def __post_init__(self) -> None:
        if not _nameable(self.name):
            raise NoteError(
                f"{self.name[:80]!r} cannot name a key", advice="use no spaces, plus or control characters"
            )

    @property
    def id(self) -> bytes:
        """The four bytes by which a signature line names the key beside its name."""
        named = self.name.encode() + b"\n" + _ED25519 + self.key.raw
        return hashlib.sha256(named).digest()[:_ID_BYTES]

    def encode(self) -> str:
        """The one-line form that others are given: name, id in hexadecimal, base64 of the type and the key."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.key.raw).decode()}"

    @classmethod
    def parse(cls, text: str) -> NoteKey:
        """Reads what `encode` made.

        Raises:
            NoteError: when the text is no such key, or its id does not fit.
        """
        name, _, rest = text.strip().partition("+")
        id_digits, _, encoded = rest.partition("+")
        raw = _from_base64(encoded)
        if len(raw) != 1 + KEY_BYTES or raw[:1] != _ED25519:
            raise NoteError("the log's key is no Ed25519 key", advice="copy the whole line again")
        try:
            key = cls(name, VerifyingKey(raw[1:]))
        except WeakKeyError as error:
            raise NoteError(error.message) from error
        if key.id.hex() != id_digits:
            raise NoteError(
                "the log's key is mistyped: its id does not fit", advice="copy the whole line again"
            )
        return key


def sign_note(text: str, name: str, identity: Identity) -> bytes:
    """The note that says `text`, which ends in a newline, signed by one key.

    Raises:
        NoteError: when the text or the name cannot stand in a note.
    """
    key = NoteKey(name, identity.verifying_key)
    if not text.endswith("\n") or not _printable(text):
        raise NoteError("a note's text ends in a newline and has no other control characters")
    signature = base64.b64encode(key.id + identity.sign(text.encode())).decode()
    note = f"{text}\n{_DASH}{name} {signature}\n".encode()
    if len(note) > MAX_NOTE_BYTES:
        raise NoteError(f"a note of {len(note)} bytes is over the cap of {MAX_NOTE_BYTES}")
    return note


def open_note(note: bytes, key: NoteKey) -> str:
    """The text of a note that this key has signed, with its final newline.

    Raises:
        NoteError: when it has not, or the bytes are no note.
    """
    if len(note) > MAX_NOTE_BYTES:
        raise NoteError(f"a note of {len(note)} bytes is over the cap of {MAX_NOTE_BYTES}")
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise NoteError("the note is not UTF-8") from None
    body, blank, lines = whole.rpartition("\n\n")
    text = body + "\n"
    if not blank or not lines.endswith("\n") or not _printable(whole):
        raise NoteError("the bytes are no signed note")
    signatures = [_signature(line) for line in lines[:-1].split("\n")]
    if len(signatures) > MAX_SIGNATURES:
        raise NoteError(f"a note with {len(signatures)} signatures has too many")
    ours = [raw[_ID_BYTES:] for name, raw in signatures if (name, raw[:_ID_BYTES]) == (key.name, key.id)]
    if not ours:
        raise NoteError(f"the note is not signed by {key.name}", advice="check the log's key")
    for signature in ours:
        try:
            key.key.verify(signature, text.encode())
        except SignatureError as error:
            raise NoteError(f"a signature of {key.name} does not hold") from error
    return text


def _signature(line: str) -> tuple[str, bytes]:
    name, space, encoded = line.removeprefix(_DASH).rpartition(" ")
    raw = _from_base64(encoded)
    if not line.startswith(_DASH) or not space or not _nameable(name) or len(raw) <= _ID_BYTES:
        raise NoteError("a signature line is damaged")
    return name, raw


def _from_base64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteError("base64 is damaged") from None
    if base64.b64encode(raw).decode() != text:
        raise NoteError("base64 is not canonical")
    return raw


def _printable(text: str) -> bool:
    return _encodable(text) and all(character >= " " or character == "\n" for character in text)


def _nameable(name: str) -> bool:
    plain = not any(character.isspace() or character < " " or character == "+" for character in name)
    return bool(name) and plain and _encodable(name)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
