"""Reading bytes from outside, field by field.

Guarantees: nothing is read past the end, no length is believed before it is known to fit, and `finish` refuses what
is left over; every refusal is the error class that the reader was made with, so a parser built on it raises nothing
else.
"""

from __future__ import annotations

import struct

from ..errors import FolkmootError


class ByteReader:
    """A cursor over bytes.

    Args:
        data: What to read.
        error: What to raise; takes a message.
    """

    def __init__(self, data: bytes | memoryview, error: type[FolkmootError]) -> None:
        self._data = memoryview(data)
        self._error = error
        self._at = 0

    def take(self, length: int) -> bytes:
        """The next `length` bytes.

        Raises:
            FolkmootError: of the reader's class, when there are fewer.
        """
        if not 0 <= length <= len(self._data) - self._at:
            raise self._error("the bytes end too early")
        part = bytes(self._data[self._at : self._at + length])
        self._at += length
        return part

    def number(self, width: int, most: int) -> int:
        """An unsigned big-endian number of `width` bytes that is at most `most`."""
        value = int.from_bytes(self.take(width))
        if value > most:
            raise self._error(f"a length or number of {value} is over the cap of {most}")
        return value

    def expect(self, content: bytes, what: str) -> None:
        """Passes over bytes that must be just these."""
        if self.take(len(content)) != content:
            raise self._error(f"these bytes are no {what}")

    def fields(self, form: struct.Struct) -> tuple[int, ...]:
        """Numbers of a fixed form."""
        return form.unpack(self.take(form.size))

    def text(self, most: int) -> str:
        """Text behind its length in two bytes."""
        try:
            return self.take(self.number(2, most)).decode()
        except UnicodeDecodeError:
            raise self._error("a text is not UTF-8") from None

    def finish(self) -> None:
        """Refuses bytes that are left over."""
        if self._at != len(self._data):
            raise self._error(f"{len(self._data) - self._at} bytes are left over")
