"""Text from tokens, as they come.

Guarantees: a character comes out when its last byte is there, and never in part; the pieces end to end are the text that
the tokenizer gives for the whole, where the tokens spell valid text; the cost of a token does not grow with the answer.

A piece is the difference between two decodings of the last few tokens, since how a token reads depends on the one before
it (sentencepiece drops a leading space, several byte tokens make one character).
"""

from __future__ import annotations

from collections.abc import Sequence

from .tokens import TextTokenizer

CONTEXT_TOKENS = 4
"""Tokens of the prompt that the answer's first token is read after."""
LONGEST_CHARACTER = 4
"""Bytes of a character at most, and so tokens."""
PATIENCE_TOKENS = 2 * LONGEST_CHARACTER
"""So many tokens without a whole character at their end spell none."""
BROKEN = "�"


class Detokenizer:
    """Reads one answer."""

    def __init__(self, tokenizer: TextTokenizer, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._prompt_end = self._context(prompt_ids)
        self.restart()

    def restart(self) -> None:
        """Forgets all tokens of the answer."""
        self._read = self._prompt_end
        self._read_text = self._decode(self._read)
        self._unread: list[int] = []

    def add(self, token: int) -> str:
        """Takes a token and returns the text that is now certain."""
        self._unread.append(token)
        text = self._decode(self._read + self._unread)
        if text.endswith(BROKEN) and len(self._unread) < PATIENCE_TOKENS:
            return ""
        return self._advance(text)

    def flush(self) -> str:
        """The text of what was held back, when no more tokens come."""
        return self._advance(self._decode(self._read + self._unread)) if self._unread else ""

    def _advance(self, text: str) -> str:
        piece = text[_common(self._read_text, text) :]
        if piece or len(self._unread) >= PATIENCE_TOKENS:
            self._read, self._unread = self._unread, []
            self._read_text = self._decode(self._read)
        return piece

    def _context(self, prompt_ids: Sequence[int]) -> list[int]:
        """The last tokens of the prompt, more of them where they would begin within a character."""
        for length in range(CONTEXT_TOKENS, CONTEXT_TOKENS + LONGEST_CHARACTER):
            context = list(prompt_ids[-length:])
            if BROKEN not in self._decode(context):
                return context
        return list(prompt_ids[-CONTEXT_TOKENS:])

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _common(before: str, after: str) -> int:
    """How many first characters are the same: all of `before`, unless it ended within a character, as a prompt may."""
    if after.startswith(before):
        return len(before)
    return next(
        (place for place, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), len(after)
    )
