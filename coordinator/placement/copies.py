"""How many copies of each unit there should be.

Guarantees: never fewer than the replicas that were asked for; more only of units that are more popular than others of their
group, and no more bytes of those than there is room for. What is there already is left alone while popularity changes by less
than half: a copy costs a download.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .units import Floats, Ints, Units

GROW, GOAL, SHRINK = 0.6, 0.8, 1.5
"""Of what popularity asks for: copies are added when there are fewer than 0.6 of it, up to 0.8, and dropped beyond 1.5 times that."""
ROOM_KEPT = 0.9
"""Of the room that replicas leave, so much is used for further copies: things need room to move."""
HALVINGS = 12


@dataclass(frozen=True)
class Wanted:
    """For each unit the copies up to which some are added, and those down to which some are dropped: both [U]."""

    fewest: Ints
    most: Ints


def wanted_copies(units: Units, copies: Ints, room_bytes: float, replicas: int, nodes: int) -> Wanted:
    """How many copies each unit should have.

    A copy of a popular unit should work no more than a copy of an average one, so a unit asks for copies in proportion to its
    popularity.

    Args:
        units: The units, with their popularity.
        copies: How many there are of each.
        room_bytes: What all nodes could hold.
        replicas: Copies of a unit of average popularity.
        nodes: How many nodes there are: no unit has two copies on one.
    """
    base = np.full(len(units), replicas, np.int64)
    if not units.known:
        return Wanted(base, base)
    asked = units.popularity * replicas
    spare = ROOM_KEPT * (room_bytes - float((base * units.sizes).sum()))
    part = _largest_part(lambda part: _further_bytes(units, asked * GOAL * part, replicas, nodes) <= spare)
    few = _clipped(asked * GROW * part, replicas, nodes)
    goal = _clipped(asked * GOAL * part, replicas, nodes)
    return Wanted(
        np.where(copies < few, goal, few), np.maximum(_clipped(asked * SHRINK, replicas, nodes), goal)
    )


def _clipped(copies: Floats, replicas: int, nodes: int) -> Ints:
    return np.maximum(np.minimum(np.floor(copies + 0.5).astype(np.int64), nodes), replicas)


def _further_bytes(units: Units, asked: Floats, replicas: int, nodes: int) -> float:
    return float(((_clipped(asked, replicas, nodes) - replicas) * units.sizes).sum())


def _largest_part(fits: Callable[[float], bool]) -> float:
    """About the largest part, from 0 to 1, that fits; 0 always does."""
    if fits(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
