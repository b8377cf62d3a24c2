"""Paged attention equals attention by its definition: any packing, any pages, windows, chunks, sinks, latent keys."""

from __future__ import annotations

import random

import pytest
import torch

from folkmoot.coordinator.engine.kv_memory import KvMemory
from folkmoot.coordinator.engine.paged_attention import PagedAttention
from folkmoot.coordinator.engine.pages import PageAllocator
from folkmoot.coordinator.engine.scheduler import Chunk, StepPlan
from folkmoot.coordinator.engine.sequence import Sequence
from folkmoot.coordinator.engine.settings import EngineSettings, EngineSettingsError
from folkmoot.coordinator.engine.step_layout import Alone, StepLayout, Together
from folkmoot.models.trunk_spec import CacheSpec, TrunkSpec
from folkmoot.tests.support.plain_attention import PlainAttention

GROUPS = 3
PAGE = 8
FULL = CacheSpec(kv_heads=2, key_dim=16, value_dim=16)
CACHES = {
    "full": FULL,
    "window": CacheSpec(kv_heads=2, key_dim=16, value_dim=16, window=11),
    "window of one": CacheSpec(kv_heads=2, key_dim=16, value_dim=16, window=1),
    "chunk": CacheSpec(kv_heads=2, key_dim=16, value_dim=16, chunk=16),
    "window and chunk": CacheSpec(kv_heads=1, key_dim=16, value_dim=16, chunk=20, window=7),
    "latent": CacheSpec(kv_heads=1, key_dim=40, value_dim=32, value_in_key=True),
    "narrow values": CacheSpec(kv_heads=2, key_dim=24, value_dim=16),
    "wide values": CacheSpec(kv_heads=2, key_dim=16, value_dim=24),
    "wide heads": CacheSpec(kv_heads=16, key_dim=128, value_dim=128),
}


class Harness:
    """Steps some sequences through paged and plain attention at once, with random keys."""

    def __init__(self, *caches: CacheSpec, pages: int = 64, dtype: torch.dtype = torch.float32) -> None:
        self.spec = TrunkSpec(len(caches), caches, (), 10, 4096, frozenset(), dtype)
        limits = EngineSettings(kv_memory_bytes=1 << 28, page_tokens=PAGE, max_running=8)
        self.memory = KvMemory(self.spec, limits)
        for layer in self.memory.layers:
            layer.keys.fill_(float("nan"))
            layer.values.fill_(float("nan"))
        self.allocator = PageAllocator(pages)
        self.plain = PlainAttention(caches)
        self.sequences: dict[int, Sequence] = {}
        self.steps = 0

    def step(self, lengths: dict[int, int], *, scattered: bool = False, sinks: bool = False) -> StepLayout:
        """Adds so many tokens to each sequence, and compares what their rows attend to."""
        self.steps += 1
        chunks, fresh = [], []
        for name, length in lengths.items():
            sequence = self.sequences.setdefault(name, Sequence(name, []))
            sequence.tokens += [0] * length
            missing = -(-len(sequence.tokens) // PAGE) - len(sequence.pages)
            new = self.allocator.take(missing, sequence.pages[-1] if sequence.pages else None) or []
            if scattered:
                random.Random(self.steps).shuffle(new)
            sequence.pages += new
            fresh += new
            chunks.append(Chunk(sequence, sequence.cached, len(sequence.tokens), samples=True))
            sequence.cached = len(sequence.tokens)
        layout = StepLayout(StepPlan(self.steps, tuple(chunks), tuple(fresh)), PAGE, self.spec.dtype)
        self.memory.clear(fresh)
        self.plain.begin(list(lengths.items()))
        paged = PagedAttention(self.spec, self.memory, layout)
        for layer, cache in enumerate(self.spec.caches):
            self._compare(layer, cache, sum(lengths.values()), paged, sinks)
        return layout

    def _compare(self, layer: int, cache: CacheSpec, tokens: int, paged: PagedAttention, sinks: bool) -> None:
        heads, dtype = cache.kv_heads * GROUPS, self.spec.dtype
        # As a projection leaves them: [T, heads, D], seen as [heads, T, D].
        query = torch.randn(tokens, heads, cache.key_dim, dtype=dtype).transpose(0, 1)
        key = torch.randn(tokens, cache.kv_heads, cache.key_dim, dtype=dtype).transpose(0, 1)
        value = (
            None
            if cache.value_in_key
            else torch.randn(tokens, cache.kv_heads, cache.value_dim, dtype=dtype).transpose(0, 1)
        )
        sink = torch.randn(heads) if sinks else None
        found = paged.attend(layer, query, key, value, 0.3, sink)
        wanted = self.plain.attend(layer, query, key, value, 0.3, sink)
        assert found.dtype == dtype
        close = 2e-6 if dtype == torch.float32 else 3e-2
        torch.testing.assert_close(found.float(), wanted.float(), atol=close, rtol=close)


@pytest.mark.parametrize("scattered", [False, True], ids=["in one piece", "scattered"])
@pytest.mark.parametrize("sinks", [False, True], ids=["no sinks", "sinks"])
@pytest.mark.parametrize("name", CACHES)
def test_any_course_of_steps(name: str, sinks: bool, scattered: bool) -> None:
    harness = Harness(CACHES[name])
    for lengths in (
        {1: 1},
        {1: 1, 2: 21},
        {1: 1, 2: 17, 3: 5, 4: 2},
        {4: 1, 3: 1, 2: 1, 1: 1},
        {1: 1, 2: 1, 5: 30, 3: 1},
        {1: 9, 2: 1, 3: 1, 4: 1, 5: 1},
        {5: 1},
        {3: 40, 4: 1},
        {1: 1, 2: 1, 3: 1, 4: 1, 5: 1},
    ):
        harness.step(lengths, scattered=scattered, sinks=sinks)


@pytest.mark.parametrize("window", [None, 16, 600])
def test_contexts_longer_than_the_kernels_own_blocks(window: int | None) -> None:
    harness = Harness(CacheSpec(kv_heads=1, key_dim=16, value_dim=16, window=window), pages=400)
    for lengths in ({1: 700}, {1: 700, 2: 3}, {1: 1, 2: 1}, {2: 40, 1: 64}):
        harness.step(lengths, scattered=window is None, sinks=window == 16)


def test_layers_of_different_kinds_share_a_step() -> None:
    harness = Harness(*CACHES.values())
    for lengths in ({1: 30, 2: 3}, {1: 1, 2: 1}, {2: 12, 1: 1}):
        harness.step(lengths)


def test_bfloat16() -> None:
    harness = Harness(FULL, CACHES["latent"], dtype=torch.bfloat16)
    for lengths in ({1: 30, 2: 3}, {1: 1, 2: 1}, {2: 12, 1: 1}):
        harness.step(lengths, sinks=True)


def test_one_sequence_is_read_where_it_lies() -> None:
    harness = Harness(CACHES["wide heads"])
    harness.step({1: 20})
    (piece,) = harness.step({1: 1}).pieces(CACHES["wide heads"])
    assert isinstance(piece, Alone)
    assert isinstance(piece.keys, slice)
    assert piece.mask is None


def test_short_sequences_are_attended_together() -> None:
    harness = Harness(FULL)
    harness.step({1: 20, 2: 21, 3: 22})
    pieces = harness.step({1: 1, 2: 1, 3: 1}).pieces(FULL)
    assert [type(piece) for piece in pieces] == [Together]


def test_memory_that_holds_no_page_is_refused_with_what_it_needs() -> None:
    spec = TrunkSpec(1, (FULL,), (), 10, 4096, frozenset(), torch.float32)
    with pytest.raises(EngineSettingsError, match="raise kv_memory_bytes to 8192"):
        KvMemory(spec, EngineSettings(kv_memory_bytes=8191))


def test_memory_is_no_larger_than_all_sequences_can_use() -> None:
    spec = TrunkSpec(1, (FULL,), (), 10, 100, frozenset(), torch.float32)
    memory = KvMemory(spec, EngineSettings(kv_memory_bytes=1 << 40, max_running=3))
    assert memory.pages == 3 * 4
