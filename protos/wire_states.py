"""States of a node on the wire.

Guarantees: each state has one number and the other way round; a number that no state has is None, never an error, for a
newer peer may know more states.
"""

from __future__ import annotations

from typing import Final

from ..node_states import NodeState
from .folkmoot.v1 import link_pb2

_NUMBERS: Final = {state: link_pb2.NodeState.Value(f"NODE_STATE_{state.name}") for state in NodeState}
_STATES: Final = {number: state for state, number in _NUMBERS.items()}


def wire_state(state: NodeState) -> link_pb2.NodeState.ValueType:
    """A state's number."""
    return _NUMBERS[state]


def state_of(number: link_pb2.NodeState.ValueType) -> NodeState | None:
    """The state that a number stands for."""
    return _STATES.get(number)
