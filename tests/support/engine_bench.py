"""Real engines over tiny models, and what transformers says they must answer.

Guarantees: `expected` is the greedy continuation that transformers' own `generate` gives; engines made here are closed by
the fixture that owns the bench.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from folkmoot.coordinator.engine.engine import Engine
from folkmoot.coordinator.engine.kv_memory import token_bytes
from folkmoot.coordinator.engine.observer import EngineObserver
from folkmoot.coordinator.engine.requests import SamplingParams
from folkmoot.coordinator.engine.settings import EngineSettings
from folkmoot.models.local import LocalExperts
from folkmoot.models.trunk import Trunk
from folkmoot.tests.support.faulty_pool import FaultyPool
from folkmoot.tests.support.prepared_models import TinyModel

PATIENCE_S = 60.0


def greedy(max_tokens: int, **others: Any) -> SamplingParams:
    """The likeliest tokens."""
    return SamplingParams(temperature=0, max_tokens=max_tokens, **others)


def prompt(length: int, seed: int = 0) -> list[int]:
    """Random bytes as tokens."""
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def eventually(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.002)


class EngineBench:
    """One tiny model, its reference, and engines over it."""

    def __init__(self, model: TinyModel) -> None:
        self.trunk = Trunk.load(model.prepared)
        self.tokenizer = model.prepared.tokenizer()
        self.local = LocalExperts(model.prepared)
        self._reference = model.reference()
        self._expected: dict[tuple[tuple[int, ...], int], list[int]] = {}
        self._engines: list[Engine] = []

    def engine(
        self,
        *,
        pool: FaultyPool | None = None,
        tokenizer: Any = None,
        covered: Callable[[], bool] | None = None,
        observer: EngineObserver | None = None,
        pages: int = 256,
        started: bool = True,
        **settings: Any,
    ) -> Engine:
        """A running engine with memory for so many pages of 8 tokens, covered while its pool is healthy."""
        chosen = {"page_tokens": 8, "max_running": 16, "max_step_tokens": 64, "prefill_chunk_tokens": 32}
        chosen |= settings
        spec = self.trunk.spec
        bytes_per_token = sum(token_bytes(cache, spec.dtype) for cache in spec.caches)
        pool = pool or FaultyPool(self.local)
        engine = Engine(
            self.trunk,
            pool,
            tokenizer or self.tokenizer,
            EngineSettings(kv_memory_bytes=pages * chosen["page_tokens"] * bytes_per_token, **chosen),
            covered or (lambda: pool.healthy),
            observer,
        )
        self._engines.append(engine)
        if started:
            engine.start()
        return engine

    def close(self) -> None:
        """Closes every engine made here."""
        for engine in self._engines:
            engine.close()
        self._engines.clear()

    def expected(self, prompt_ids: Sequence[int], count: int) -> list[int]:
        """What transformers continues a prompt with, an end token included."""
        key = (tuple(prompt_ids), count)
        if key not in self._expected:
            answer = self._reference.generate(
                torch.tensor([list(prompt_ids)]), max_new_tokens=count, do_sample=False
            )
            self._expected[key] = answer[0, len(prompt_ids) :].tolist()
        return self._expected[key]

    @torch.inference_mode()
    def logprobs(self, tokens: Sequence[int]) -> torch.Tensor:
        """transformers' log-probabilities after each of the tokens: [len(tokens), V]."""
        logits: torch.Tensor = self._reference(torch.tensor([list(tokens)])).logits[0]
        return torch.log_softmax(logits.float(), dim=-1)
