"""A node that computes only while its gate is open, so that tests can let work pile up.

Guarantees: nothing is computed or opened while the gate is closed, in whatever order it came; what is computed then is honest,
unless a fault was put into `fails`.
"""

from __future__ import annotations

import threading

import torch

from folkmoot.models.manifest import Manifest
from folkmoot.node.challenges import Activations, Question
from folkmoot.node.daemon import NodeDaemon
from folkmoot.node.executor import Executor, Send
from folkmoot.node.frames import Work
from folkmoot.node.session import Session
from folkmoot.node.settings import NodeSettings


class GatedExecutor(Executor):
    """Computes only while its gate is open, and fails when it is told to."""

    node: GatedNode

    def compute(self, work: Work) -> torch.Tensor:
        """As it should, once the gate is open."""
        self._pass()
        return super().compute(work)

    def open(self, question: Question) -> Activations:
        """As it should, once the gate is open."""
        self._pass()
        return super().open(question)

    def _pass(self) -> None:
        self.node.at_gate += 1
        assert self.node.gate.wait(20)
        self.node.at_gate -= 1
        if self.node.fails:
            raise self.node.fails.pop()


class GatedNode(NodeDaemon):
    """A node with a gate, closed at first.

    Attributes:
        gate: While it is open, things are computed.
        fails: What the next computations fail with.
        at_gate: How many computations wait at the gate.
    """

    def __init__(self, settings: NodeSettings) -> None:
        super().__init__(settings)
        self.gate = threading.Event()
        self.fails: list[Exception] = []
        self.at_gate = 0

    def make_executor(self, session: Session, manifest: Manifest, send: Send) -> Executor:
        """One behind the node's gate."""
        executor = GatedExecutor(session, manifest, self.shelf, send, threads=1)
        executor.node = self
        return executor
