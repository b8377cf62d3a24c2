"""What audits ask for: rows of chosen experts alone, with all of their pairs, within the caps."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.coordinator.audit.secret_draws import SecretDraws
from folkmoot.coordinator.audit.selection import SelectionCaps, select
from folkmoot.coordinator.dispatch.pairs import Pairs
from folkmoot.ids import ExpertKey, NodeId
from folkmoot.trust.audit_policy import AuditSubject

NODE = NodeId("ab" * 32)


def routing(rows: int, experts: int, top_k: int, seed: int) -> Pairs:
    generator = np.random.default_rng(seed)
    ids = np.stack([generator.permutation(experts)[:top_k] for _ in range(rows)])
    return Pairs.of(ids, generator.random((rows, top_k)).astype(np.float32))


def subjects(*experts: int) -> dict[int, AuditSubject]:
    return {expert: AuditSubject(NODE, ExpertKey(0, expert), "1") for expert in experts}


@given(
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 40),
    st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_a_selection_is_whole_and_within_its_caps(
    rows: int, experts: int, per_expert: int, most_rows: int, most_pairs: int, seed: int
) -> None:
    pairs = routing(rows, experts, min(3, experts), seed)
    chosen = subjects(*pairs.loads[0][:2])
    found = select(pairs, rows, chosen, SelectionCaps(per_expert, most_rows, most_pairs), SecretDraws())
    if found is None:
        assert most_pairs < min(3, experts)
        return
    assert len(found.rows) <= min(most_rows, per_expert * len(chosen))
    assert len(found.pairs) <= most_pairs
    assert (np.diff(found.rows) > 0).all()
    kept = {(int(e), int(found.rows[r]), float(g)) for e, r, g in _triples(found.pairs)}
    asked = set(found.rows.tolist())
    assert kept == {(int(e), int(r), float(g)) for e, r, g in _triples(pairs) if int(r) in asked}
    about = {subject.expert.expert for subject in found.subjects}
    assert about and about <= set(chosen)
    for row in asked:
        assert {expert for expert, at, _ in kept if at == row} & set(chosen)
    for part in found.by_expert:
        assert (np.diff(part.rows) > 0).all()
    assert sum(len(part.rows) for part in found.by_expert) == len(found.pairs)


def _triples(pairs: Pairs) -> list[tuple[np.int32, np.int32, np.float32]]:
    return list(zip(pairs.experts, pairs.rows, pairs.gates, strict=True))


def test_every_row_is_drawn_sooner_or_later() -> None:
    pairs, draws = routing(64, 1, 1, 0), SecretDraws()
    caps, seen = SelectionCaps(4, 64, 1024), set()
    for _ in range(200):
        found = select(pairs, 64, subjects(0), caps, draws)
        assert found is not None and len(found.rows) == 4
        seen |= set(found.rows.tolist())
    assert seen == set(range(64))


def test_draws_are_uniform_and_never_repeat() -> None:
    draws = SecretDraws()
    taken = np.concatenate([draws.take(1000) for _ in range(20)] + [draws.take(10_000)])
    assert len(set(taken.tolist())) == len(taken) == 30_000
    assert taken.min() >= 0 and taken.max() < 1
    assert abs(taken.mean() - 0.5) < 0.02
    assert sorted(draws.order(5).tolist()) == [0, 1, 2, 3, 4]
