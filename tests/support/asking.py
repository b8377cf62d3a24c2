"""Asking a whole network over HTTP, and what transformers would answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import torch

from folkmoot.tests.support.prepared_models import TinyModel
from folkmoot.tests.support.whole_network import WholeNetwork

PROMPT = "Why is the sky blue?"


def greedy_text(model: TinyModel, tokens: int, prompt: str = PROMPT) -> str:
    """What transformers answers, in so many tokens, whatever ends an answer."""
    tokenizer = model.prepared.tokenizer()
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    reference = model.reference()
    reference.generation_config.eos_token_id = None
    answer = reference.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids)),
        max_new_tokens=tokens,
        do_sample=False,
    )
    text: str = tokenizer.decode(answer[0, len(ids) :], skip_special_tokens=True)
    return text


def completion(network: WholeNetwork, tokens: int, **changes: Any) -> dict[str, Any]:
    body = {
        "model": network.coordinator.hub.snapshot().model,
        "prompt": PROMPT,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    return body | changes


@asynccontextmanager
async def client_of(network: WholeNetwork) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=network.coordinator.api_url, timeout=60) as client:
        yield client


async def ask(network: WholeNetwork, tokens: int, **changes: Any) -> dict[str, Any]:
    """One whole answer."""
    async with client_of(network) as client:
        reply = await client.post("/v1/completions", json=completion(network, tokens, **changes))
    assert reply.status_code == 200, reply.text
    document: dict[str, Any] = reply.json()
    return document
