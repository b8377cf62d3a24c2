"""Which experts a probe asks about: pure, but for the random generator that it is given.

Guarantees: at most `most` are drawn, all of those that are to be tried; no layer comes twice before each has come once; a node
that was right about all of them before is asked about one.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from ...ids import ExpertKey

SHARE = 4
"""Of what is new, one in so many at most: a node that reports expert after expert is not asked about each."""


def draw(
    trying: Collection[ExpertKey],
    proven: Collection[ExpertKey],
    known: Collection[ExpertKey],
    most: int,
    chance: random.Random,
) -> list[ExpertKey]:
    """Draws experts to ask about.

    Args:
        trying: What is to be tried; not empty.
        proven: What the node was right about before.
        known: Experts whose answers are at hand: among the experts of a layer these come first, for others cost reading.
        most: How many to draw.
        chance: Where chance comes from.
    """
    at_hand, new = frozenset(known), sorted(frozenset(trying) - frozenset(proven))
    if not new:
        new, most = sorted(trying), 1
    layers: dict[int, list[ExpertKey]] = {}
    for key in chance.sample(new, len(new)):
        layers.setdefault(key.layer, []).append(key)
    for keys in layers.values():
        keys.sort(key=lambda key: key not in at_hand, reverse=True)  # taken from the end
    wanted, drawn = min(most, -(-len(new) // SHARE)), list[ExpertKey]()
    while len(drawn) < wanted:
        drawn += [keys.pop() for keys in layers.values() if keys]
    return drawn[:wanted]
