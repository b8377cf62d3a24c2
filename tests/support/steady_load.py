"""Constant load on a network through the official client: several streams, each asking again and again what it knows the answer to.

Guarantees: the client never tries again by itself; every answer is compared token by token with transformers' own; whatever is wrong
is kept, and nothing ends the load but its end.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx
import openai
import torch

from folkmoot.tests.support.prepared_models import TinyModel


@dataclass(frozen=True)
class Question:
    """What is asked, and the tokens that transformers answers: the bytes of each, None for a special one."""

    prompt: str
    answer: tuple[bytes | None, ...]


def questions(model: TinyModel, prompts: Sequence[str], tokens: int) -> list[Question]:
    """Asks transformers for greedy answers of so many tokens, whatever would end them."""
    reference, tokenizer = model.reference(), model.prepared.tokenizer()
    reference.generation_config.eos_token_id = None
    made = []
    for prompt in prompts:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        answer = reference.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
        )
        tokens_told = tokenizer.convert_ids_to_tokens(answer[0, ids.shape[1] :].tolist())
        made.append(Question(prompt, tuple(LETTERS.get(token) for token in tokens_told)))
    return made


def _letters() -> dict[str, bytes]:
    """The letters that tokenizers of bytes write them with: printable ones as they are, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): bytes([byte]) for byte in printable} | {
        chr(256 + place): bytes([byte]) for place, byte in enumerate(others)
    }


LETTERS = _letters()


class SteadyLoad:
    """So many streams on one network.

    Attributes:
        answers: How many came and were right.
        faults: What was wrong with the others.
    """

    def __init__(self, api_url: str, model: str, asked: Sequence[Question], streams: int, seed: int) -> None:
        self.answers = 0
        self.faults: list[str] = []
        self._api_url, self._model = api_url, model
        self._asked = asked
        self._streams = streams
        self._seed = seed
        self._ending = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    async def _run(self) -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{self._api_url}/v1", api_key="none", max_retries=0, timeout=300
        ) as client:
            await asyncio.gather(
                *(self._stream(client, random.Random(self._seed + number)) for number in range(self._streams))
            )

    async def _stream(self, client: openai.AsyncOpenAI, draw: random.Random) -> None:
        while not self._ending.is_set():
            question = draw.choice(self._asked)
            try:
                wrong = await self._ask(client, question)
            except (openai.OpenAIError, httpx.HTTPError) as error:
                wrong = f"{type(error).__name__}: {error}"
            if wrong is None:
                self.answers += 1
            else:
                self.faults.append(f"{question.prompt!r}: {wrong}")

    async def _ask(self, client: openai.AsyncOpenAI, question: Question) -> str | None:
        """Streams one answer; what is wrong with it, if anything."""
        stream: Any = await client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": question.prompt}],
            max_tokens=len(question.answer),
            temperature=0,
            stream=True,
            logprobs=True,
            extra_body={"ignore_eos": True},
        )
        tokens: list[bytes] = []
        async for chunk in stream:
            for choice in chunk.choices:
                if choice.logprobs is not None:
                    tokens += [bytes(entry.bytes or ()) for entry in choice.logprobs.content or []]
        if len(tokens) != len(question.answer):
            return f"{len(tokens)} tokens of {len(question.answer)}"
        for place, (token, wanted) in enumerate(zip(tokens, question.answer, strict=True)):
            if wanted is not None and token != wanted:
                return f"token {place} is {token!r}, not {wanted!r}"
        return None
