"""An adversary's executor with nothing around it: frames and challenges go in, results and openings come out.

Guarantees: the executor is the one that the node of this kind has; a result is handed on only when the coordinator's own check
accepts it.
"""

from __future__ import annotations

import secrets
from typing import Final

import numpy as np

from ...coordinator.dispatch.acceptance import Expected, accept
from ...coordinator.dispatch.counters import DispatchCounters
from ...coordinator.dispatch.pairs import Pairs
from ...coordinator.dispatch.verified_result import VerifiedResult
from ...coordinator.hub.link import Link
from ...coordinator.hub.roster import NodeRecord
from ...coordinator.hub.settings import HubSettings
from ...ids import ExpertKey, SessionId
from ...kernels.expert import Expert
from ...models.prepared import PreparedModel
from ...node.session import Session
from ...node.shelf import Shelf
from ...protos.codec import encode_tensor, raw_bytes, wire_dtype
from ...protos.folkmoot.v1 import link_pb2
from ...protos.limits import MAX_ROWS_PER_FRAME
from ...trust.keys import Identity
from ...trust.statements import TaskStatement, tensor_digest
from .executors import Seat
from .kinds import Adversary
from .model import Oracle
from .nodes import executor_of

DEADLINE_MS: Final = 60_000


class Understudy:
    """One adversary, asked for one expert.

    Attributes:
        host: It as dispatch and auditor see it: a link that nothing is sent on.
    """

    deadline_s = DEADLINE_MS / 1000

    def __init__(self, model: PreparedModel, adversary: Adversary, key: ExpertKey, seed: int) -> None:
        """On a running event loop, as executors and links need one."""
        self.adversary = adversary
        self._manifest = model.manifest
        self._key = key
        self._oracle = Oracle(model)
        self._seed = seed << 32
        self._sequence = 0
        self._coordinator = Identity.generate().public
        identity, session = Identity.generate(), SessionId(secrets.token_bytes(32))
        shelf = Shelf()
        for held in sorted(model.manifest.experts):
            shelf.add(held, Expert.load(model.manifest.spec_of(held), model.read_expert(held)))
        seat = Session(
            identity,
            self._coordinator,
            session,
            model.manifest.digest,
            MAX_ROWS_PER_FRAME,
            MAX_ROWS_PER_FRAME,
        )
        self._executor = executor_of(adversary, Seat(seat, model.manifest, shelf, _unsent, 1))
        self.host = Link(
            identity.verifying_key,
            session,
            HubSettings(),
            DispatchCounters(),
            NodeRecord(),
            lambda link, error, reason: None,
        )

    def call(self, rows: int = 1) -> VerifiedResult:
        """Its accepted answer to rows that it has not seen before."""
        self._sequence += 1
        hidden = self._oracle.rows(rows, self._seed + self._sequence)
        pairs = Pairs.of(np.full((rows, 1), self._key.expert), np.ones((rows, 1), np.float32))
        frame = link_pb2.Frame()
        frame.CopyFrom(pairs.message)
        frame.sequence, frame.layer, frame.deadline_ms = self._sequence, self._key.layer, DEADLINE_MS
        frame.hidden.CopyFrom(encode_tensor(hidden))
        result = self._executor.answer(frame)
        assert result is not None, "adversaries that keep results back are not rehearsed"
        task = TaskStatement(
            coordinator=self._coordinator,
            node=self.host.key.raw,
            session=self.host.session,
            sequence=self._sequence,
            manifest=self._manifest.digest,
            profile=self._manifest.profile,
            layer=self._key.layer,
            rows=rows,
            hidden=self._manifest.hidden,
            routing=pairs.digest,
            input=tensor_digest(wire_dtype(hidden.dtype), hidden.shape, raw_bytes(hidden)),
            deadline_ms=DEADLINE_MS,
        )
        accepted = accept(result, Expected(task, self.host.key))
        return VerifiedResult(self.host, task, pairs, hidden, result, accepted.statement)

    def pass_rows(self, rows: int) -> None:
        """Calls that nobody audits, in as few frames as they fit into."""
        while rows:
            taken = min(rows, MAX_ROWS_PER_FRAME)
            self.call(taken)
            rows -= taken

    def pass_frames(self, frames: int) -> None:
        """Calls that nobody audits, each a frame."""
        for _ in range(frames):
            self.call()

    def open(self, challenge: link_pb2.Challenge) -> link_pb2.Opening | None:
        """What it opens in time."""
        return self._executor.answer_challenge(challenge)


def _unsent(message: link_pb2.NodeMessage, left: object) -> None:
    """What comes too late is not waited for."""
