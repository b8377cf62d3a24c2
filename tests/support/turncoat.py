"""A node that is honest until it is told to lie, and opens nothing while it is told not to.

Guarantees: it is the real daemon in everything else; a lie is well signed, and far from the truth.
"""

from __future__ import annotations

import threading

import torch

from folkmoot.models.manifest import Manifest
from folkmoot.node.daemon import NodeDaemon
from folkmoot.node.executor import Executor, Send
from folkmoot.node.frames import Work
from folkmoot.node.session import Session
from folkmoot.node.settings import NodeSettings
from folkmoot.node.shelf import Shelf
from folkmoot.protos.folkmoot.v1 import link_pb2


class TurncoatExecutor(Executor):
    """The executor of a turncoat's link."""

    def __init__(
        self, session: Session, manifest: Manifest, shelf: Shelf, send: Send, node: Turncoat
    ) -> None:
        super().__init__(session, manifest, shelf, send, threads=1)
        self._node = node

    def compute(self, work: Work) -> torch.Tensor:
        """The truth, or three times its opposite."""
        right = super().compute(work)
        self._node.frames += 1
        if not self._node.lies.is_set() and self._node.frames != self._node.lies_once_at:
            return right
        self._node.lied += 1
        return -3 * right

    def answer_challenge(self, challenge: link_pb2.Challenge) -> link_pb2.Opening | None:
        """The opening, or nothing."""
        return super().answer_challenge(challenge) if self._node.opens.is_set() else None


class Turncoat(NodeDaemon):
    """A node.

    Attributes:
        lies: Whether it lies from now on.
        lies_once_at: The number of the one frame that it lies in, from 1 on; None for none.
        opens: Whether it opens what it is asked to.
        frames: Frames that it has computed.
        lied: In how many of them it lied.
    """

    def __init__(self, settings: NodeSettings, *, lies_once_at: int | None = None) -> None:
        super().__init__(settings)
        self.lies = threading.Event()
        self.lies_once_at = lies_once_at
        self.opens = threading.Event()
        self.opens.set()
        self.frames = 0
        self.lied = 0

    def make_executor(self, session: Session, manifest: Manifest, send: Send) -> Executor:
        """A turncoat's."""
        return TurncoatExecutor(session, manifest, self.shelf, send, self)
