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

    gate: threading.Event
    fails: list[Exception]

    def compute(self, work: Work) -> torch.Tensor:
        """As it should, once the gate is open."""
        self._pass()
        return super().compute(work)

    def open(self, question: Question) -> Activations:
        """As it should, once the gate is open."""
        self._pass()
        return super().open(question)

    def _pass(self) -> None:
        assert self.gate.wait(20)
        if self.fails:
            raise self.fails.pop()


class GatedNode(NodeDaemon):
    """A node with a gate, closed at first."""

    def __init__(self, settings: NodeSettings) -> None:
        super().__init__(settings)
        self.gate = threading.Event()
        self.fails: list[Exception] = []

    def make_executor(self, session: Session, manifest: Manifest, send: Send) -> Executor:
        """One behind the node's gate."""
        executor = GatedExecutor(session, manifest, self.shelf, send, threads=1)
        executor.gate, executor.fails = self.gate, self.fails
        return executor
