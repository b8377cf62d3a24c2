"""What placement is given, and what it gives back.

Guarantees: nothing in a snapshot is what a node claims of its speed: memory is what it lends, all else is what the coordinator
measured or decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ...ids import ExpertKey, NodeId


@dataclass(frozen=True)
class NodeCapacity:
    """What placement knows of a node.

    Attributes:
        node: Who it is.
        memory_bytes: The most that it may be given.
        holds: What it holds or was told to hold; giving these back to it costs nothing.
        owner: Whose it is; nodes of one owner are not counted on to fail apart. Empty: its own.
        most_experts: The most that it is given beside what it holds, but for one unit, where the others can host all replicas of
            the rest; None for no such limit.
        bytes_per_second: Of expert weights, as the coordinator saw it work, its link included; None of one that has not been
            measured, which is taken to be as fast for its memory as the others are for theirs.
        round_trip_s: Of its link; 0 when it has not been measured.
    """

    node: NodeId
    memory_bytes: int
    holds: frozenset[ExpertKey] = frozenset()
    owner: str = ""
    most_experts: int | None = None
    bytes_per_second: float | None = None
    round_trip_s: float = 0.0


@dataclass(frozen=True)
class OwnCapacity:
    """What placement knows of the coordinator, when it hosts experts itself: no row has to travel to it, and nothing has to be
    downloaded.

    Attributes:
        node: Its key, as an id; it counts as an owner of its own.
        memory_bytes: The most that it may be given.
        holds: What it holds or was told to hold.
        refused: What it cannot hold.
    """

    node: NodeId
    memory_bytes: int
    holds: frozenset[ExpertKey] = frozenset()
    refused: frozenset[ExpertKey] = frozenset()


@dataclass(frozen=True)
class Traffic:
    """How a model's experts were used, as moving averages. E experts of a layer, by their number.

    Attributes:
        popularity: For a layer, [E] rows that each expert had; only their proportions count.
        together: For a layer, [E, E] rows that had both experts, symmetric; a layer may be missing.
    """

    popularity: Mapping[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    together: Mapping[int, npt.NDArray[np.float32]] = field(default_factory=dict)


Target = dict[NodeId, frozenset[ExpertKey]]
"""For each node, what it should hold."""
