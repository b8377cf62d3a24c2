"""Who holds what: counts that always agree with the holdings, snapshots that never change, and subscribers that are told."""

from __future__ import annotations

from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.coordinator.dispatch.directory import Directory
from folkmoot.coordinator.dispatch.host import Host
from folkmoot.ids import ExpertKey
from folkmoot.tests.support.memory_experts import MemoryExperts

MANIFEST = MemoryExperts(layers=(1, 4), experts=3).manifest
KEYS = sorted(MANIFEST.experts)


class Nobody:
    """A host that only has an identity."""


holdings = st.lists(st.tuples(st.integers(0, 3), st.frozensets(st.sampled_from(KEYS))), max_size=30)


@given(holdings)
@settings(max_examples=200, deadline=None)
def test_counts_and_holders_follow_the_holdings(changes: list[tuple[int, frozenset[ExpertKey]]]) -> None:
    directory = Directory(MANIFEST)
    hosts = [cast(Host, Nobody()) for _ in range(4)]
    held: dict[int, frozenset[ExpertKey]] = {}
    for index, ready in changes:
        directory.update(hosts[index], ready)
        held[index] = ready
        replicas = {key: sum(key in keys for keys in held.values()) for key in KEYS}
        assert {key: directory.replicas(key) for key in KEYS} == replicas
        assert directory.coverage.covered == sum(count >= 1 for count in replicas.values())
        assert directory.coverage.replicated == sum(count >= 2 for count in replicas.values())
        assert directory.coverage.complete == all(replicas.values())
        for layer in (1, 4):
            found = directory.layer(layer)
            for expert, having in enumerate(found.holders):
                assert {found.hosts[host] for host in having} == {
                    hosts[index] for index, keys in held.items() if ExpertKey(layer, expert) in keys
                }


def test_a_snapshot_stays_as_it_was() -> None:
    directory, host = Directory(MANIFEST), cast(Host, Nobody())
    directory.update(host, frozenset(KEYS))
    before, other = directory.layer(1), directory.layer(4)
    directory.update(host, frozenset(KEYS[3:]))
    assert before.holders == ((0,), (0,), (0,))
    assert directory.layer(1).holders == ((), (), ())
    assert directory.layer(4) is other, "a layer that did not change is not made anew"


def test_subscribers_hear_of_new_hosts_and_of_the_end() -> None:
    directory, host = Directory(MANIFEST), cast(Host, Nobody())
    heard: list[str] = []

    def hear() -> None:
        heard.append("changed")

    directory.subscribe(hear)
    directory.update(host, frozenset(KEYS[:2]))
    directory.update(host, frozenset(KEYS[:1]))
    assert heard == ["changed"], "a loss gives nobody a new host"
    directory.close()
    assert heard == ["changed"] * 2
    assert directory.closed
    directory.unsubscribe(hear)
    directory.remove(host)
    directory.update(host, frozenset(KEYS))
    assert len(heard) == 2
