"""What fixed-width statements have in common: how their fields become bytes, and bytes fields again.

Guarantees: a statement's bytes are its 32-byte domain tag and then its fields in order, big-endian, each of one
width; so bytes and fields determine each other, `decode(encode(x)) == x`, and any bytes that `decode` takes are those
that `encode` gives back. A field of the wrong width or range is refused, never padded or cut.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from typing import Any, ClassVar, Self

from .statements import DIGEST_BYTES, StatementError, domain_tag


class CanonicalStatement:
    """A frozen dataclass whose fields are 32-byte digests or keys, and unsigned numbers.

    A subclass names its kind and gives one `struct` code for each field: `class Receipt(CanonicalStatement, kind="receipt",
    form="32s Q")`.
    """

    __slots__ = ()

    TAG: ClassVar[bytes]
    BYTES: ClassVar[int]
    """How many bytes each statement of the kind has."""
    _FORM: ClassVar[struct.Struct]

    def __init_subclass__(cls, kind: str | None = None, form: str = "") -> None:
        # A dataclass with slots is made twice; the second time its base has no arguments to give.
        if kind is not None:
            cls.TAG = domain_tag(kind)
            cls._FORM = struct.Struct(f">{DIGEST_BYTES}s {form}")
            cls.BYTES = cls._FORM.size

    def encode(self) -> bytes:
        """The canonical bytes.

        Raises:
            StatementError: when a field has the wrong width or range.
        """
        values = self._values()
        for value in values:
            if isinstance(value, bytes) and len(value) != DIGEST_BYTES:
                raise StatementError(f"a field of {len(value)} bytes cannot be stated: want {DIGEST_BYTES}")
        try:
            return self._FORM.pack(self.TAG, *values)
        except struct.error as error:
            raise StatementError(f"a {type(self).__name__} cannot be stated ({error})") from None

    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes: what other statements refer to it by."""
        return hashlib.sha256(self.encode()).digest()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Reads what `encode` made.

        Raises:
            StatementError: when the bytes are no statement of this kind.
        """
        if len(data) != cls.BYTES:
            raise StatementError(f"a {cls.__name__} has {cls.BYTES} bytes, not {len(data)}")
        tag, *values = cls._FORM.unpack(data)
        if tag != cls.TAG:
            raise StatementError(f"these bytes are no {cls.__name__}")
        return cls(*values)

    def _values(self) -> list[Any]:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # only subclasses, all dataclasses, exist
        return [getattr(self, field.name) for field in fields]
