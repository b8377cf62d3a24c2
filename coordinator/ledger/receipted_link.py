"""A link, as receipts need it.

Guarantees: none of its own; it says what the scribe may ask of a link, and from where.
"""

from __future__ import annotations

from typing import Protocol

from ...ids import NodeId, SessionId
from ...protos.folkmoot.v1 import link_pb2
from ...trust.keys import VerifyingKey


class ReceiptedLink(Protocol):
    """A link as the scribe sees it; attributes may be read from any thread, methods belong to the event loop."""

    @property
    def node(self) -> NodeId:
        """Whose it is."""
        ...

    @property
    def key(self) -> VerifyingKey:
        """The node's."""
        ...

    @property
    def session(self) -> SessionId:
        """This life of the link."""
        ...

    def ended_through(self) -> int:
        """The last frame up to which all have ended."""
        ...

    def post(self, message: link_pb2.CoordinatorMessage) -> bool:
        """Queues a message; one that cannot be sent any more is forgotten. Whether it was queued."""
        ...

    def cut(self, reason: str, *, retry: bool) -> None:
        """Ends the link on purpose."""
        ...
