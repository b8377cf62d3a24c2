"""How many bytes each node should hold.

Guarantees: shares are in proportion to memory, none is over the node's memory or over one copy of the model (a second copy
on the same node is no replica), and they add up to what all replicas need, or to all that fits.
"""

from __future__ import annotations

from collections.abc import Sequence


def fair_shares(memories: Sequence[int], model_bytes: int, replicas: int) -> list[float]:
    """Each node's share in bytes, for a model of `model_bytes` with so many replicas."""
    caps = [min(memory, model_bytes) for memory in memories]
    need = float(model_bytes * replicas)
    if sum(caps) <= need:
        return [float(cap) for cap in caps]
    shares = [0.0] * len(memories)
    open_nodes = set(range(len(memories)))
    while open_nodes:
        scale = need / max(sum(memories[node] for node in open_nodes), 1)
        full = {node for node in open_nodes if memories[node] * scale >= caps[node]}
        for node in full or open_nodes:
            shares[node] = float(caps[node]) if full else memories[node] * scale
        if not full:
            break
        need -= sum(caps[node] for node in full)
        open_nodes -= full
    return shares
