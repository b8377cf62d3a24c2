"""Plans: every pair exactly once and only on a holder, in canonical order, within the caps; and the choices that the cost
model is there to make."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.coordinator.dispatch.choice import HostEstimate
from folkmoot.coordinator.dispatch.pairs import Pairs
from folkmoot.coordinator.dispatch.plan import FrameCaps, Plan, plan

CAPS = FrameCaps(rows=1024, pairs=1 << 17)
SPEED = 1 / 12e9
FRAME_COST_S = 0.001
IDLE = HostEstimate(0.0005, SPEED)


def routing(rows: int, top_k: int, experts: int, seed: int) -> Pairs:
    random = np.random.default_rng(seed)
    ids = np.stack([random.permutation(experts)[:top_k] for _ in range(rows)]).astype(np.int64)
    return Pairs.of(ids, random.random((rows, top_k), dtype=np.float32))


def as_set(pairs: Pairs) -> Counter[tuple[int, int, float]]:
    return Counter(zip(pairs.experts.tolist(), pairs.rows.tolist(), pairs.gates.tolist(), strict=True))


def simple(
    pairs: Pairs, holders: list[list[int]], hosts: list[HostEstimate], size: int, turn: int = 0
) -> Plan:
    return plan(pairs, holders, hosts, [size] * len(holders), CAPS, FRAME_COST_S, turn)


@given(
    st.integers(1, 40),
    st.integers(1, 4),
    st.integers(4, 12),
    st.integers(1, 6),
    st.integers(1, 9),
    st.integers(2, 30),
    st.integers(0, 10**6),
)
@settings(max_examples=300, deadline=None)
def test_each_pair_is_planned_once_and_on_a_holder(
    rows: int, top_k: int, experts: int, hosts: int, max_rows: int, max_pairs: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    pairs = routing(rows, top_k, experts, seed)
    holders = [np.flatnonzero(random.random(hosts) < 0.5).tolist() for _ in range(experts)]
    estimates = [
        HostEstimate(float(random.random() * 0.01), float(10 ** -random.uniform(8, 11))) for _ in range(hosts)
    ]
    sizes = random.integers(1, 10**8, experts).tolist()
    caps = FrameCaps(max_rows, max_pairs)
    found = plan(pairs, holders, estimates, sizes, caps, FRAME_COST_S, turn=int(random.integers(100)))
    planned = sum((as_set(frame.pairs) for frame in found.frames), Counter[tuple[int, int, float]]())
    orphans = as_set(found.orphans) if found.orphans is not None else Counter[tuple[int, int, float]]()
    assert planned + orphans == as_set(pairs)
    assert all(not holders[expert] for expert, _, _ in orphans)
    host_of: dict[int, int] = {}
    for frame in found.frames:
        order = list(zip(frame.pairs.experts.tolist(), frame.pairs.rows.tolist(), strict=True))
        assert order == sorted(set(order))
        assert 1 <= len(frame.rows) <= max_rows
        assert len(order) <= max_pairs or len(frame.rows) == 1
        assert frame.rows[frame.local.rows].tolist() == frame.pairs.rows.tolist()
        assert set(frame.pairs.rows.tolist()) == set(frame.rows.tolist())
        assert frame.rows.tolist() == sorted(frame.rows.tolist())
        assert frame.pairs.experts.dtype == frame.local.rows.dtype == np.int32
        assert frame.pairs.gates.dtype == np.float32
        assert frame.work > 0
        for expert, _ in order:
            assert frame.host in holders[expert]
            assert host_of.setdefault(expert, frame.host) == frame.host, "one replica computes an expert"


def test_canonical_order_does_not_depend_on_the_routers_order() -> None:
    ids, gates = np.array([[3, 1], [1, 2]]), np.array([[0.3, 0.1], [0.5, 0.2]], np.float32)
    one, other = Pairs.of(ids, gates), Pairs.of(ids[:, ::-1], gates[:, ::-1])
    assert one.experts.tolist() == other.experts.tolist() == [1, 1, 2, 3]
    assert one.rows.tolist() == other.rows.tolist() == [0, 1, 1, 0]
    assert one.gates.tolist() == other.gates.tolist()


def test_joined_pairs_are_in_canonical_order() -> None:
    pairs = routing(9, 3, 8, 0)
    odd = pairs.experts % 2 == 1
    joined = Pairs.join([pairs.take(odd), pairs.take(~odd)])
    assert joined.experts.tolist() == pairs.experts.tolist()
    assert joined.rows.tolist() == pairs.rows.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_two_nodes_share_a_tokens_large_experts_evenly(seed: int) -> None:
    found = simple(routing(1, 8, 64, seed), [[0, 1]] * 64, [IDLE, IDLE], 12_000_000)
    assert sorted((frame.host, len(frame.pairs)) for frame in found.frames) == [(0, 4), (1, 4)]


def test_a_small_layer_goes_to_one_node_in_turn() -> None:
    used = [
        [
            frame.host
            for frame in simple(routing(1, 8, 8, 0), [[0, 1]] * 8, [IDLE, IDLE], 5_000_000 // 8, turn).frames
        ]
        for turn in range(4)
    ]
    assert used == [[0], [1], [0], [1]]


def test_a_busy_node_is_passed_over() -> None:
    busy = HostEstimate(0.0005 + 0.01, SPEED)
    for hosts, free in (([busy, IDLE], 1), ([IDLE, busy], 0)):
        found = simple(routing(1, 8, 8, 0), [[0, 1]] * 8, hosts, 600_000)
        assert [frame.host for frame in found.frames] == [free]


def test_a_slow_node_gets_less() -> None:
    slow = HostEstimate(0.0005, 3 * SPEED)
    found = simple(routing(16, 8, 64, 0), [[0, 1]] * 64, [IDLE, slow], 12_000_000)
    work = {frame.host: frame.work for frame in found.frames}
    assert 2.4 < work[0] / work[1] < 3.6


@pytest.mark.parametrize("noise", [0.75, 0.9, 1.1, 1.35])
def test_nodes_that_are_nearly_equal_share_a_call_evenly(noise: float) -> None:
    like = HostEstimate(IDLE.start_s * noise, SPEED * noise)
    for hosts in ([IDLE, like], [like, IDLE]):
        found = simple(routing(1, 8, 64, 0), [[0, 1]] * 64, hosts, 12_000_000)
        assert sorted(len(frame.pairs) for frame in found.frames) == [4, 4]


def test_a_suspect_node_is_asked_only_for_what_no_other_has() -> None:
    suspect = HostEstimate(1000.0, SPEED)
    holders = [[0], [0, 1], [0, 1], [1]]
    ids, gates = np.array([[0, 1, 2, 3]]), np.ones((1, 4), np.float32)
    found = simple(Pairs.of(ids, gates), holders, [suspect, IDLE], 12_000_000)
    assert {frame.host: frame.pairs.experts.tolist() for frame in found.frames} == {0: [0], 1: [1, 2, 3]}


def test_experts_that_lie_on_three_nodes_are_covered_by_as_few_as_can() -> None:
    holders = [[0, 1], [1, 2], [0, 1], [1, 2]]
    found = simple(routing(2, 4, 4, 0), holders, [IDLE] * 3, 10_000)
    assert [frame.host for frame in found.frames] == [1]


def test_a_prompt_is_shared_and_split_under_the_cap() -> None:
    found = plan(routing(3000, 4, 16, 1), [[0, 1]] * 16, [IDLE, IDLE], [1_000_000] * 16, CAPS, FRAME_COST_S)
    assert {frame.host for frame in found.frames} == {0, 1}
    assert all(len(frame.rows) <= CAPS.rows for frame in found.frames)
