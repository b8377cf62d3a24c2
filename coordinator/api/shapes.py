"""The JSON documents of completions, whole and in pieces, as OpenAI's clients expect them.

Guarantees: in a stream the first chunk has the role (chat), content chunks have text only, the finish chunk's delta is
`{}` and carries the object `folkmoot`, and the usage chunk has no choices; an answer that is not streamed carries
`folkmoot` beside `usage`. Every other field is OpenAI's.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ..engine.generation import Generation
from ..engine.requests import Delta, TokenLogprob

Document = dict[str, Any]


def accounting(generation: Generation) -> Document:
    """The object `folkmoot`: which nodes computed the answer, how their results were checked, and what came of it."""
    tally = generation.tally
    return {
        "verify": generation.delivery.verification.value,
        "nodes": sorted(tally.nodes),
        "results_verified": tally.results_verified,
        "results_own": tally.results_own,
        "results_rejected": tally.results_rejected,
        "retries": tally.retries,
        "audits_passed": generation.audits_passed,
        "rewound": generation.rewound,
        "suspect_tokens": [list(span) for span in generation.suspect_tokens],
    }


def usage(generation: Generation) -> Document:
    """OpenAI's count of tokens."""
    prompt, completion = generation.prompt_tokens, generation.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class Shape(ABC):
    """How one kind of completion is written down; one instance an answer."""

    object_name: str
    chunk_object_name: str
    id_prefix: str

    def __init__(self, model: str, *, include_usage: bool = False, logprobs: bool = False) -> None:
        self._model = model
        self._include_usage = include_usage
        self._logprobs = logprobs
        self._id = f"{self.id_prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def identify(self, generation: Generation) -> None:
        """The answer has the generation's identity, by which `/v1/network` names it if it is doubted one day."""
        self._id = f"{self.id_prefix}-{generation.id}"

    def whole(self, generation: Generation, deltas: Sequence[Delta]) -> Document:
        """The answer as one document."""
        text = "".join(delta.text for delta in deltas)
        choice = {
            "index": 0,
            **self._answer(text),
            "logprobs": self._token_logprobs([entry for delta in deltas for entry in delta.logprobs or ()]),
            "finish_reason": deltas[-1].finish_reason,
        }
        return {
            **self._head(self.object_name),
            "choices": [choice],
            "usage": usage(generation),
            "folkmoot": accounting(generation),
        }

    def opening(self) -> list[Document]:
        """The chunks before any text."""
        return []

    def piece(self, delta: Delta) -> list[Document]:
        """The chunks of one delta: none when it has nothing to show yet."""
        if not delta.text and not (self._logprobs and delta.logprobs):
            return []
        logprobs = self._token_logprobs(delta.logprobs or ())
        return [
            self._chunk(
                {"index": 0, **self._text_piece(delta.text), "logprobs": logprobs, "finish_reason": None}
            )
        ]

    def closing(self, generation: Generation, finish_reason: str) -> list[Document]:
        """The chunks after all text: the finish chunk, and the usage chunk if it was asked for."""
        choice = {"index": 0, **self._empty_piece(), "logprobs": None, "finish_reason": finish_reason}
        chunks = [{**self._chunk(choice), "folkmoot": accounting(generation)}]
        if self._include_usage:
            chunks.append({**self._head(self.chunk_object_name), "choices": [], "usage": usage(generation)})
        return chunks

    def _head(self, object_name: str) -> Document:
        return {"id": self._id, "object": object_name, "created": self._created, "model": self._model}

    def _chunk(self, choice: Document) -> Document:
        chunk = {**self._head(self.chunk_object_name), "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return chunk

    def _token_logprobs(self, entries: Sequence[TokenLogprob]) -> Document | None:
        return self._logprobs_document(entries) if self._logprobs else None

    @abstractmethod
    def _answer(self, text: str) -> Document: ...

    @abstractmethod
    def _text_piece(self, text: str) -> Document: ...

    @abstractmethod
    def _empty_piece(self) -> Document: ...

    @abstractmethod
    def _logprobs_document(self, entries: Sequence[TokenLogprob]) -> Document: ...


class ChatShape(Shape):
    """`/v1/chat/completions`."""

    object_name = "chat.completion"
    chunk_object_name = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def opening(self) -> list[Document]:
        """The chunk that says who speaks."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk({"index": 0, "delta": delta, "logprobs": None, "finish_reason": None})]

    def _answer(self, text: str) -> Document:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _text_piece(self, text: str) -> Document:
        return {"delta": {"content": text}}

    def _empty_piece(self) -> Document:
        return {"delta": {}}

    def _logprobs_document(self, entries: Sequence[TokenLogprob]) -> Document:
        content = [
            {**self._token(entry), "top_logprobs": [self._token(top) for top in entry.top]}
            for entry in entries
        ]
        return {"content": content, "refusal": None}

    def _token(self, entry: TokenLogprob) -> Document:
        return {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.bytes)}


class CompletionShape(Shape):
    """`/v1/completions`."""

    object_name = "text_completion"
    chunk_object_name = "text_completion"
    id_prefix = "cmpl"

    def __init__(self, model: str, *, include_usage: bool = False, logprobs: bool = False) -> None:
        super().__init__(model, include_usage=include_usage, logprobs=logprobs)
        self._offset = 0

    def _answer(self, text: str) -> Document:
        return {"text": text}

    def _text_piece(self, text: str) -> Document:
        return {"text": text}

    def _empty_piece(self) -> Document:
        return {"text": ""}

    def _logprobs_document(self, entries: Sequence[TokenLogprob]) -> Document:
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(entry.text)
        return {
            "tokens": [entry.text for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [{top.text: top.logprob for top in entry.top} for entry in entries],
            "text_offset": offsets,
        }
