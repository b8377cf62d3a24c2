"""Routings that come again cost nothing twice, and never stand for another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from folkmoot.coordinator.dispatch.pairs import REMEMBERED, Pairs, PairsMemory


def routing(seed: int, tokens: int = 2, top_k: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    experts = np.stack([np.sort(random.permutation(8)[:top_k]) for _ in range(tokens)]).astype(np.int64)
    return experts, random.random((tokens, top_k), dtype=np.float32)


def same(one: Pairs, other: Pairs) -> bool:
    return (
        np.array_equal(one.experts, other.experts)
        and np.array_equal(one.rows, other.rows)
        and np.array_equal(one.gates, other.gates)
        and one.digest == other.digest
    )


def test_a_routing_that_comes_again_is_found_again() -> None:
    memory = PairsMemory()
    experts, gates = routing(1)
    assert memory.pairs(experts, gates) is memory.pairs(experts.copy(), gates.copy())


def test_the_same_numbers_in_another_shape_are_another_routing() -> None:
    memory = PairsMemory()
    experts, gates = np.array([[1, 2]], np.int64), np.array([[0.5, 0.25]], np.float32)
    wide, tall = memory.pairs(experts, gates), memory.pairs(experts.reshape(2, 1), gates.reshape(2, 1))
    assert wide.rows.tolist() == [0, 0] and tall.rows.tolist() == [0, 1]


def test_lanes_that_share_the_memory_get_their_own_routing() -> None:
    memory = PairsMemory()

    def run(seed: int) -> bool:
        experts, gates = routing(seed % (3 * REMEMBERED))
        return same(memory.pairs(experts, gates), Pairs.of(experts, gates))

    with ThreadPoolExecutor(4) as lanes:
        assert all(lanes.map(run, range(2000)))
    assert len(memory._known) <= REMEMBERED + 4
