"""An answer as it arrives.

Guarantees: iterating yields text in order, each piece once; when the iteration ends without an error the answer was
complete, and `usage`, `accounting` and `finish_reason` are set; closing it early hangs up, which cancels the work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from time import monotonic
from types import TracebackType
from typing import Any, Self

import httpx

from .errors import OTHER_API, ProtocolError, UnreachableError, error_of


class Answer:
    """One streamed answer of a chat.

    Attributes:
        finish_reason: `stop` or `length`, once it is over.
        usage: OpenAI's count of tokens, once it is over.
        accounting: The object `folkmoot`: nodes, results verified and rejected, retries; once it is over.
        first_token_at: When the first token came (monotonic seconds).
        last_token_at: When the last token came, the one that ended the answer included (monotonic seconds).
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.finish_reason: str | None = None
        self.usage: dict[str, int] = {}
        self.accounting: dict[str, Any] = {}
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None

    def __iter__(self) -> Iterator[str]:
        """Yields pieces of text as they come.

        Raises:
            FolkmootError: what the server said in mid-stream, or that it hung up.
        """
        try:
            for line in self._response.iter_lines():
                if not line.startswith("data:"):
                    continue
                payload = line[len("data:") :].strip()
                if payload == "[DONE]":
                    return
                yield from self._texts_of(payload)
        except httpx.TransportError as error:
            raise UnreachableError(
                "the connection broke in the middle of the answer",
                advice="ask again; folkmoot status tells how it is",
            ) from error
        finally:
            self.close()
        raise ProtocolError("the answer ended without its end mark", advice="ask again")

    def _texts_of(self, payload: str) -> list[str]:
        try:
            chunk = json.loads(payload)
        except ValueError as error:
            raise ProtocolError("the stream holds something that is not JSON", advice=OTHER_API) from error
        if not isinstance(chunk, dict):
            raise ProtocolError("the stream holds JSON that is not an object", advice=OTHER_API)
        if "error" in chunk:
            raise error_of(None, chunk)
        try:
            return self._take(chunk)
        except (TypeError, AttributeError) as error:
            raise ProtocolError("the stream holds a chunk that is not OpenAI's", advice=OTHER_API) from error

    def _take(self, chunk: dict[str, Any]) -> list[str]:
        texts = []
        self.usage = chunk.get("usage") or self.usage
        self.accounting = chunk.get("folkmoot") or self.accounting
        for choice in chunk.get("choices", []):
            # The chunk with the role comes with the first token, and the finish chunk with the last.
            self.last_token_at = monotonic()
            self.first_token_at = self.first_token_at or self.last_token_at
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            text = choice.get("delta", {}).get("content")
            if text:
                texts.append(text)
        return texts

    @property
    def tokens_per_second(self) -> float:
        """The rate at which a reader saw tokens after the first; 0 when there were fewer than two."""
        tokens = self.usage.get("completion_tokens", 0)
        if tokens < 2 or self.first_token_at is None or self.last_token_at is None:
            return 0.0
        return (tokens - 1) / max(self.last_token_at - self.first_token_at, 1e-9)

    def close(self) -> None:
        """Hangs up; a server that is still computing stops."""
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
