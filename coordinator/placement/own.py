"""What the coordinator hosts itself: a pure function.

Guarantees: never more bytes than it has memory for, and nothing that it refused; the hottest experts first, because each of their
rows saves a round trip and a signature; layer by layer where nothing is known of traffic, because a layer that is all here needs no
round trip; whole layers first where all experts of a layer work for every row. What it holds stays while nothing else is clearly hotter, and
its own answer, taken as what it holds, gives itself back.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...ids import ExpertKey
from .snapshot import OwnCapacity
from .units import Units

CLEARLY = 1.5
"""How much hotter another expert must be: nodes have to fetch what is given up here."""


def own_share(
    own: OwnCapacity, sizes: Mapping[ExpertKey, int], units: Units, whole: Units | None
) -> frozenset[ExpertKey]:
    """What the coordinator should hold.

    Args:
        own: The coordinator.
        sizes: Bytes of each expert of the model.
        units: The model's experts, each by itself.
        whole: Its layers, where they should stay together; None where not.
    """
    kept: set[ExpertKey] = set()
    left = own.memory_bytes
    for choice in (whole, units) if whole is not None else (units,):
        heat = choice.popularity * np.where(
            [own.holds.issuperset(keys) for keys in choice.keys], CLEARLY, 1.0
        )
        for unit in np.argsort(-heat, kind="stable").tolist():
            keys = choice.keys[unit]
            size = sum(sizes[key] for key in keys)
            if size <= left and kept.isdisjoint(keys) and own.refused.isdisjoint(keys):
                kept.update(keys)
                left -= size
    return frozenset(kept)
