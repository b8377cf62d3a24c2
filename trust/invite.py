"""Invites: the one string that lets a node join.

Guarantees: an invite carries address, key fingerprint and join secret, and survives mail and chat: it has no characters
that look alike, letter case does not matter, and white space that a line wrap put in is ignored. A CRC-32 over all of it
detects every single wrong character, two neighbours swapped, and all but one in 4 billion other mistakes.

Form: `folkmoot1-` and base 32 (Crockford's alphabet) of: port (2 bytes), fingerprint (32), join secret (16), host, CRC-32.
"""

from __future__ import annotations

import ipaddress
import re
import struct
import zlib
from dataclasses import dataclass, field
from typing import Final

from ..errors import UsageError
from .enrolment import JOIN_SECRET_BYTES
from .keys import fingerprint as fingerprint_of
from .statements import DIGEST_BYTES

PREFIX: Final = "folkmoot1-"
MAX_HOST_CHARACTERS: Final = 255

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)} | {"o": 0, "i": 1, "l": 1}
_FIXED: Final = struct.Struct(f">H{DIGEST_BYTES}s{JOIN_SECRET_BYTES}s")
_CHECKSUM: Final = struct.Struct(">I")
_SHORTEST: Final = _FIXED.size + 1 + _CHECKSUM.size
_LONGEST: Final = _FIXED.size + MAX_HOST_CHARACTERS + _CHECKSUM.size
_HOST: Final = re.compile(r"[A-Za-z0-9._:%-]+", re.ASCII)
_ASK: Final = "copy the whole invite again, or ask the operator for it"


class InviteError(UsageError):
    """The text is not an invite that can be used."""


class NotAnInviteError(InviteError):
    """The text does not begin as an invite does."""


class IncompleteInviteError(InviteError):
    """The text ends before the invite does."""


class MistypedInviteError(InviteError):
    """A character of the invite is wrong, missing or too many."""


@dataclass(frozen=True)
class Invite:
    """Where a coordinator is, how to know that it is the one, and how to show that one was invited.

    Attributes:
        host: Name or address, IPv6 without brackets.
        port: TCP port of the hub.
        fingerprint: SHA-256 of the coordinator's Ed25519 public key, 32 bytes.
        join_secret: 16 bytes that only invited people know.

    Raises:
        InviteError: when a part is out of range.
    """

    host: str
    port: int
    fingerprint: bytes
    join_secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not _is_host(self.host):
            raise InviteError(
                f"{self.host[:MAX_HOST_CHARACTERS]!r} is no host for an invite",
                advice="name a DNS name or an address, IPv6 without brackets, and no port",
            )
        if not 0 < self.port < 1 << 16:
            raise InviteError(f"{self.port} is no port for an invite", advice="name one from 1 to 65535")
        if len(self.fingerprint) != DIGEST_BYTES:
            raise InviteError(f"a fingerprint has {DIGEST_BYTES} bytes, not {len(self.fingerprint)}")
        if len(self.join_secret) != JOIN_SECRET_BYTES:
            raise InviteError(f"a join secret has {JOIN_SECRET_BYTES} bytes, not {len(self.join_secret)}")

    @property
    def address(self) -> str:
        """`host:port`, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def names(self, coordinator_key: bytes) -> bool:
        """Whether this public key is the one that the invite pins."""
        return fingerprint_of(coordinator_key) == self.fingerprint

    def encode(self) -> str:
        """The string to hand out."""
        content = _FIXED.pack(self.port, self.fingerprint, self.join_secret) + self.host.encode()
        return PREFIX + _to_text(content + _CHECKSUM.pack(_checksum(content)))

    @classmethod
    def parse(cls, text: str) -> Invite:
        """Reads what `encode` made.

        Raises:
            NotAnInviteError, IncompleteInviteError, MistypedInviteError: all are InviteError and say what to do.
        """
        compact = "".join(text.split()).lower()
        if not compact.startswith(PREFIX):
            raise _unknown_prefix(compact)
        body = compact[len(PREFIX) :]
        if len(body) > _characters(_LONGEST):
            raise MistypedInviteError("the invite is too long", advice=_ASK)
        content, checksum = _split(_to_bytes(body))
        if checksum != _checksum(content):
            raise MistypedInviteError("the invite is mistyped: its checksum does not fit", advice=_ASK)
        port, fingerprint, join_secret = _FIXED.unpack_from(content)
        host = content[_FIXED.size :].decode("ascii", errors="replace")
        return cls(host, port, fingerprint, join_secret)


def _is_host(text: str) -> bool:
    if len(text) > MAX_HOST_CHARACTERS or not _HOST.fullmatch(text):
        return False
    try:
        return ":" not in text or bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


def _unknown_prefix(compact: str) -> InviteError:
    if PREFIX.startswith(compact) and compact:
        return IncompleteInviteError("the invite is cut short", advice=_ASK)
    if re.match(r"folkmoot\d+-", compact):
        return NotAnInviteError(
            "the invite is of another version, or mistyped", advice=f"{_ASK}; if it is right, update folkmoot"
        )
    return NotAnInviteError(f"an invite begins with {PREFIX}", advice=_ASK)


def _split(raw: bytes) -> tuple[bytes, int]:
    if len(raw) < _SHORTEST:
        raise IncompleteInviteError("the invite is cut short", advice=_ASK)
    (checksum,) = _CHECKSUM.unpack(raw[-_CHECKSUM.size :])
    return raw[: -_CHECKSUM.size], checksum


def _checksum(content: bytes) -> int:
    return zlib.crc32(PREFIX.encode() + content)


def _characters(length: int) -> int:
    return -(-length * 8 // 5)


def _to_text(raw: bytes) -> str:
    characters = _characters(len(raw))
    number = int.from_bytes(raw) << (characters * 5 - len(raw) * 8)
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(characters)))


def _to_bytes(text: str) -> bytes:
    number = 0
    for position, character in enumerate(text):
        value = _VALUES.get(character)
        if value is None:
            raise MistypedInviteError(
                f"the invite is mistyped: it cannot have {character!r} (character {len(PREFIX) + position + 1})",
                advice=_ASK,
            )
        number = number << 5 | value
    length, padding = divmod(len(text) * 5, 8)
    if padding >= 5 or number & ((1 << padding) - 1):
        raise MistypedInviteError("the invite is mistyped or cut short", advice=_ASK)
    return (number >> padding).to_bytes(length)
