"""What part of all replicas each node should hold.

Guarantees: shares are in proportion to nodes' weights, none is over the node's cap, and they add up to what is needed, or to
all caps where those are less.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .snapshot import NodeCapacity
from .units import Floats


def fair_shares(caps: Floats, weights: Floats, need: float) -> Floats:
    """Each node's share of `need`, in its unit."""
    if caps.sum() <= need:
        return caps.astype(np.float64)
    shares = np.zeros(len(caps))
    left = caps > 0
    while left.any():
        scale = need / max(float(weights[left].sum()), 1e-300)
        full = left & (weights * scale >= caps)
        if not full.any():
            shares[left] = weights[left] * scale
            break
        shares[full] = caps[full]
        need -= float(caps[full].sum())
        left &= ~full
    return shares


def weights_of(nodes: Sequence[NodeCapacity]) -> Floats:
    """What each node can do against the others: its measured speed, or what others of its memory would reach."""
    memory = np.array([max(node.memory_bytes, 1) for node in nodes], np.float64)
    speed = np.array([node.bytes_per_second or 0.0 for node in nodes], np.float64)
    measured = speed > 0
    if not measured.any():
        return memory
    typical = float(np.median(speed[measured] / memory[measured]))
    return np.where(measured, speed, memory * typical)
