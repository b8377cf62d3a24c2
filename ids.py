"""The identifiers that every room shares.

Guarantees: a `NodeId` is the lower-case hexadecimal of a node's 32-byte Ed25519 public key, so an id can be turned into
the key that checks its signatures with no lookup; an `ExpertKey` orders by layer, then expert.
"""

from __future__ import annotations

from typing import NamedTuple, NewType

NodeId = NewType("NodeId", str)
"""64 hexadecimal digits: the node's Ed25519 public key."""

SessionId = NewType("SessionId", bytes)
"""32 bytes that name one life of one link, made from both sides' nonces."""


class ExpertKey(NamedTuple):
    """One routed feed-forward network of one layer; `layer` counts all decoder layers of the model from 0."""

    layer: int
    expert: int

    def __str__(self) -> str:
        return f"layer {self.layer} expert {self.expert}"


def short(node: NodeId) -> str:
    """The first twelve digits of a node id: enough for a log line."""
    return node[:12]
