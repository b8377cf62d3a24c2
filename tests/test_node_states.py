"""The states of a node: which may follow which, what is remembered of them, and that the wire names them all."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.node_states import (
    ATTACHED,
    MAY_FOLLOW,
    MOST_CHANGES,
    Lifecycle,
    NodeState,
    StateChangeError,
    Wish,
)
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.protos.wire_states import state_of, wire_state, wire_wish, wish_of

OUTSIDE = {NodeState.QUARANTINED, NodeState.LOST}


def test_every_state_has_rules_and_none_follows_itself() -> None:
    assert set(MAY_FOLLOW) == set(NodeState) == ATTACHED | OUTSIDE
    assert all(state not in after for state, after in MAY_FOLLOW.items() if state in OUTSIDE)


@pytest.mark.parametrize("state", sorted(ATTACHED))
def test_a_link_may_be_lost_and_a_node_cut_off_at_any_time(state: NodeState) -> None:
    assert MAY_FOLLOW[state] >= OUTSIDE


@pytest.mark.parametrize("outside", sorted(OUTSIDE))
def test_whoever_comes_back_joins_first(outside: NodeState) -> None:
    assert MAY_FOLLOW[outside] & ATTACHED == {NodeState.JOINING}


def test_nobody_who_is_on_the_way_goes_back_to_the_start() -> None:
    for state in (NodeState.DOWNLOADING, NodeState.PROBING, NodeState.READY):
        assert NodeState.JOINING not in MAY_FOLLOW[state]


def test_a_change_has_its_time_and_reason_and_a_new_reason_keeps_the_time_of_the_state() -> None:
    life = Lifecycle(NodeState.LOST, "", 1.0)
    life.enter(NodeState.JOINING, "attached", 2.0)
    assert (life.state, life.reason, life.since_unix_s) == (NodeState.JOINING, "attached", 2.0)
    change = life.enter(NodeState.JOINING, "still waiting", 3.0)
    assert change is not None and (change.reason, change.at_unix_s) == ("still waiting", 3.0)
    assert life.since_unix_s == 2.0
    assert life.enter(NodeState.JOINING, "still waiting", 4.0) is None
    assert [change.at_unix_s for change in life.history] == [1.0, 2.0, 3.0]


def test_what_may_not_follow_is_refused_and_changes_nothing() -> None:
    life = Lifecycle(NodeState.LOST, "left", 1.0)
    with pytest.raises(StateChangeError, match="lost cannot become ready"):
        life.enter(NodeState.READY, "", 2.0)
    assert [change.state for change in life.history] == [NodeState.LOST]


@given(st.lists(st.tuples(st.sampled_from(NodeState), st.sampled_from(["", "one", "another"])), max_size=200))
def test_whatever_is_tried_every_remembered_step_was_allowed(tries: list[tuple[NodeState, str]]) -> None:
    life = Lifecycle(NodeState.LOST, "", 0.0)
    for now_s, (state, reason) in enumerate(tries, 1):
        before = life.state
        allowed = state is before or state in MAY_FOLLOW[before]
        try:
            life.enter(state, reason, float(now_s))
        except StateChangeError:
            assert not allowed and life.state is before
        else:
            assert allowed and life.state is state
    history = life.history
    assert len(history) <= MOST_CHANGES
    for earlier, later in itertools.pairwise(history):
        assert later.state is earlier.state or later.state in MAY_FOLLOW[earlier.state]
        assert later != earlier and later.at_unix_s > earlier.at_unix_s


def test_states_and_wishes_have_each_a_number_on_the_wire_and_others_are_nobodys() -> None:
    assert {state_of(wire_state(state)) for state in NodeState} == set(NodeState)
    assert {wish_of(wire_wish(wish)) for wish in Wish} == set(Wish)
    assert len(link_pb2.NodeState.values()) == len(NodeState) + 1
    assert len(link_pb2.Wish.Kind.values()) == len(Wish) + 1
    assert state_of(link_pb2.NODE_STATE_UNSPECIFIED) is None
    assert wish_of(link_pb2.Wish.KIND_UNSPECIFIED) is None
