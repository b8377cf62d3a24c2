"""What a single token spells.

Guarantees: a token's bytes are its own, also where it is a part of a character; tokens that are no text (special ones)
spell their own name.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any, Protocol

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WORD_START = "\u2581"
"""How sentencepiece writes a space."""


class TextTokenizer(Protocol):
    """The part of a tokenizer of transformers that the engine calls, from any thread."""

    def decode(
        self, token_ids: list[int], /, *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool
    ) -> str:
        """The text of tokens."""
        ...

    def convert_ids_to_tokens(self, token: int, /) -> str | None:
        """The vocabulary's own spelling of a token."""
        ...


class TokenSpelling:
    """Spells the tokens of one tokenizer; any thread may ask."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._byte_level = _is_byte_level(tokenizer)
        self._added: set[str] = set(getattr(tokenizer, "get_added_vocab", dict)())

    def spell(self, token: int) -> tuple[str, bytes]:
        """A token's text and bytes; bytes that are no whole character read as U+FFFD."""
        data = self._bytes(token)
        return data.decode("utf-8", errors="replace"), data

    def _bytes(self, token: int) -> bytes:
        spelling = self._tokenizer.convert_ids_to_tokens(token)
        if spelling is None:  # the embedding has more rows than the vocabulary has tokens
            return b""
        if spelling in self._added:
            return spelling.encode()
        if self._byte_level:
            letters = _byte_letters()
            if all(letter in letters for letter in spelling):
                return bytes(letters[letter] for letter in spelling)
        if match := _BYTE_TOKEN.fullmatch(spelling):
            return bytes([int(match[1], 16)])
        return spelling.replace(_WORD_START, " ").encode()


def _is_byte_level(tokenizer: TextTokenizer) -> bool:
    """Whether the vocabulary spells bytes with GPT-2's letters."""
    decoder: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return False
    state = json.loads(decoder.__getstate__())
    return any(part["type"] == "ByteLevel" for part in [state, *state.get("decoders", ())])


@cache
def _byte_letters() -> dict[str, int]:
    """GPT-2's letter for each byte: printable ones stand for themselves, the others for what follows U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}
