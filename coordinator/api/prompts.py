"""From what a client wrote to token ids.

Guarantees: a conversation is worded by the model's own chat template and nothing else; work on long text runs outside the
event loop; content that is not text is refused by name, never dropped.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from .errors import RequestError
from .requests import Message

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""The roles that we serve, and what chat templates call them."""


def _whole(text: str, place: str) -> str:
    """The text, if it is one: JSON can escape half of a character, which no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{place} holds half of a character ({text[error.start]!r})",
            advice="send whole characters, both surrogates of each",
            param=place,
            code="invalid_value",
        ) from error
    return text


def _content_text(message: Message, place: str) -> str:
    """The text of one message, its parts joined as they stand."""
    if isinstance(message.content, str):
        return _whole(message.content, f"{place}.content")
    if message.content is None:
        raise RequestError(f"{place}.content is missing", param=f"{place}.content", code="missing_parameter")
    texts = []
    for index, part in enumerate(message.content):
        where = f"{place}.content[{index}]"
        if part.get("type") != "text":
            raise RequestError(
                f"{where} is of type {part.get('type')!r}: this model reads text only",
                param=where,
                code="unsupported_content",
            )
        if not isinstance(part.get("text"), str):
            raise RequestError(f"{where}.text must be text", param=f"{where}.text", code="invalid_value")
        texts.append(_whole(part["text"], f"{where}.text"))
    return "".join(texts)


def conversation(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Checks the messages and brings them into the form that chat templates read.

    Raises:
        RequestError: naming the message that has a role or content that is not served.
    """
    turns = []
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        role = ROLES.get(message.role)
        if role is None:
            raise RequestError(
                f"{place}.role is {message.role!r}: served are {', '.join(ROLES)}",
                param=f"{place}.role",
                code="unsupported_role",
            )
        if (message.model_extra or {}).get("tool_calls"):
            raise RequestError(
                "tool_calls is not supported by this server",
                param=f"{place}.tool_calls",
                code="unsupported_parameter",
            )
        turns.append({"role": role, "content": _content_text(message, place)})
    return turns


class Prompts:
    """Turns texts and conversations into token ids with a model's tokenizer, one at a time."""

    def __init__(self, tokenizer: Any) -> None:
        """Takes a transformers tokenizer."""
        self._tokenizer = tokenizer
        self._lock = threading.Lock()

    async def of_conversation(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation, up to where the model's answer begins."""
        turns = conversation(messages)
        if not getattr(self._tokenizer, "chat_template", None):
            raise RequestError(
                "this model has no chat template",
                advice="use /v1/completions, or put a chat_template.jinja beside the model's tokenizer files",
                param="messages",
                code="no_chat_template",
            )
        return await asyncio.to_thread(self._word, turns)

    async def of_prompt(self, prompt: str | list[int] | list[str] | list[list[int]]) -> list[int]:
        """The ids of a completion's prompt: text, ids, or a list that holds just one of either."""
        if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
            prompt = prompt[0]
        if isinstance(prompt, str):
            return await asyncio.to_thread(self._encode, _whole(prompt, "prompt"), True)
        ids = [token for token in prompt if isinstance(token, int)]
        if len(ids) != len(prompt):
            raise RequestError(
                f"prompt holds {len(prompt)} prompts",
                advice="send one request for each",
                param="prompt",
                code="unsupported_value",
            )
        return ids

    def _word(self, turns: list[dict[str, str]]) -> list[int]:
        try:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise RequestError(
                f"the model's chat template refuses these messages ({error})",
                param="messages",
                code="invalid_messages",
            ) from error
        return self._encode(text, False)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        # A tokenizer's Rust half refuses to be configured by one thread while another uses it.
        with self._lock:
            ids = self._tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
        return [int(token) for token in ids]
