"""How many copies of each unit there should be.

Guarantees: never fewer than the replicas that were asked for; more only of units that are more popular than others of their
group, and no more bytes of those than there is room for. What is there already is left alone while popularity changes by less
than half: a copy costs a download.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .units import Floats, Ints, Units

GROW, SHRINK = 0.8, 1.5
"""Copies are added up to 0.8 of what popularity asks for, and taken away only beyond 1.5 times that."""
ROOM_KEPT = 0.9
"""Of the room that replicas leave, so much is used for further copies: things need room to move."""
HALVINGS = 12


@dataclass(frozen=True)
class Wanted:
    """For each unit the copies below which some are added, and those above which some are dropped: both [U]."""

    fewest: Ints
    most: Ints


def wanted_copies(units: Units, room_bytes: float, replicas: int, nodes: int) -> Wanted:
    """How many copies each unit should have.

    A copy of a popular unit should work no more than a copy of an average one, so a unit asks for copies in proportion to its
    popularity.

    Args:
        units: The units, with their popularity.
        room_bytes: What all nodes could hold.
        replicas: Copies of a unit of average popularity.
        nodes: How many nodes there are: no unit has two copies on one.
    """
    base = np.full(len(units), replicas, np.int64)
    if not units.known:
        return Wanted(base, base)
    asked = units.popularity * replicas
    spare = ROOM_KEPT * (room_bytes - float((base * units.sizes).sum()))
    low, high = 0.0, 1.0
    if _further_bytes(units, base, _clipped(asked * GROW, replicas, nodes)) <= spare:
        low = 1.0
    else:
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            fits = _further_bytes(units, base, _clipped(asked * GROW * middle, replicas, nodes)) <= spare
            low, high = (middle, high) if fits else (low, middle)
    fewest = _clipped(asked * GROW * low, replicas, nodes)
    return Wanted(fewest, np.maximum(_clipped(asked * SHRINK, replicas, nodes), fewest))


def _clipped(copies: Floats, replicas: int, nodes: int) -> Ints:
    return np.maximum(np.minimum(np.floor(copies + 0.5).astype(np.int64), nodes), replicas)


def _further_bytes(units: Units, base: Ints, copies: Ints) -> float:
    return float(((copies - base) * units.sizes).sum())
