"""States and wishes of a node on the wire.

Guarantees: each has one number and the other way round; a number that none has is None, never an error, for a newer peer may
know more.
"""

from __future__ import annotations

from typing import Final

from ..node_states import NodeState, Wish
from .folkmoot.v1 import link_pb2

_NUMBERS: Final = {state: link_pb2.NodeState.Value(f"NODE_STATE_{state.name}") for state in NodeState}
_STATES: Final = {number: state for state, number in _NUMBERS.items()}
_WISH_NUMBERS: Final = {wish: link_pb2.Wish.Kind.Value(f"KIND_{wish.name}") for wish in Wish}
_WISHES: Final = {number: wish for wish, number in _WISH_NUMBERS.items()}


def wire_wish(wish: Wish) -> link_pb2.Wish.Kind.ValueType:
    """A wish's number."""
    return _WISH_NUMBERS[wish]


def wish_of(number: link_pb2.Wish.Kind.ValueType) -> Wish | None:
    """The wish that a number stands for."""
    return _WISHES.get(number)


def wire_state(state: NodeState) -> link_pb2.NodeState.ValueType:
    """A state's number."""
    return _NUMBERS[state]


def state_of(number: link_pb2.NodeState.ValueType) -> NodeState | None:
    """The state that a number stands for."""
    return _STATES.get(number)
