"""An engine over a village: requests, their answers, and what they are where nobody lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from folkmoot.coordinator.engine.delivery import Delivery, Verification
from folkmoot.coordinator.engine.engine import Engine
from folkmoot.coordinator.engine.generation import Generation
from folkmoot.coordinator.engine.kv_memory import token_bytes
from folkmoot.coordinator.engine.requests import Delta, SamplingParams
from folkmoot.coordinator.engine.settings import EngineSettings
from folkmoot.models.pool import ExpertFuture

from .engine_bench import PATIENCE_S
from .fingerprint_trunk import ALPHABET
from .tiny_models import tiny_tokenizer
from .village_trunk import VillageTrunk

TOKENIZER = tiny_tokenizer()
PAGE = 4
AUDITED = Delivery(Verification.AUDITED)
WHOLE = Delivery(whole=True)
RHYME = [ALPHABET[place % 3] for place in range(24)]


class NoPool:
    """Experts that nobody asks."""

    def submit(self, *call: Any) -> ExpertFuture:
        raise AssertionError("a fingerprint trunk has no experts")


@contextmanager
def serving(trunk: VillageTrunk, pages: int = 100, **chosen: Any) -> Iterator[Engine]:
    """An engine over a village, with so many pages of 4 tokens."""
    fields = {"max_running": 5, "max_step_tokens": 24, "prefill_chunk_tokens": 9, "page_tokens": PAGE}
    spec = trunk.spec
    memory_bytes = pages * PAGE * sum(token_bytes(cache, spec.dtype) for cache in spec.caches)
    limits = EngineSettings(kv_memory_bytes=memory_bytes, **(fields | chosen))
    engine = Engine(trunk, NoPool(), TOKENIZER, limits, lambda: True, audits=True, trusted=trunk.trusts)
    trunk.serve(engine)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()
        trunk.close()


@dataclass(frozen=True)
class Ask:
    """A request."""

    prompt_ids: list[int]
    sampling: SamplingParams
    delivery: Delivery


def submit(engine: Engine, asked: Sequence[Ask]) -> list[Generation]:
    """Asks for all of them at once."""
    return [engine.submit(ask.prompt_ids, ask.sampling, ask.delivery) for ask in asked]


def deltas(generation: Generation) -> list[Delta]:
    """All of an answer."""
    return list(generation.stream(PATIENCE_S))


def honest(asked: Sequence[Ask], surprise: float = 0.3, pages: int = 100) -> list[list[Delta]]:
    """What the answers are where nobody lies."""
    with serving(VillageTrunk(surprise=surprise), pages) as engine:
        return [deltas(generation) for generation in submit(engine, asked)]


def tokens(answer: Sequence[Delta]) -> list[int]:
    """Those of an answer."""
    return [token for delta in answer for token in delta.token_ids]


def balanced(engine: Engine) -> bool:
    """Whether nothing is left of any answer."""
    stats = engine.stats()
    return (stats.running, stats.waiting, stats.pages_used) == (0, 0, 0)
