"""Nodes that are trusted before they come: their keys are made beforehand, and the coordinator's records say that they have passed.

Guarantees: what the coordinator reads is what it would have kept itself of nodes that were audited a thousand times, each expert.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from ... import __version__
from ...coordinator.audit.passed_audits import PassedAudits
from ...coordinator.audit.standing_book import Record
from ...errors import FolkmootError
from ...ids import NodeId
from ...models.manifest import Manifest
from ...node.state import StateFolder
from ...trust.audit_policy import AuditSubject
from ...trust.standing import Standing, Status

TRUSTED_AUDITS = 1000
"""So many audits passed leave the lowest rate."""


class Members:
    """A `Shelf` that has these nodes as members, and keeps nothing."""

    saved = True

    def __init__(self, nodes: Sequence[NodeId]) -> None:
        self._nodes = nodes

    def take_all(self) -> dict[NodeId, Record]:
        """All of them."""
        standing = Standing(Status.MEMBER, "passed many audits", time.time())
        return {node: Record(standing, "trusted") for node in self._nodes}

    def put(self, node: NodeId, record: Record | None) -> None:
        """Nothing is kept."""

    def save(self) -> FolkmootError | None:
        """Nothing is to be made durable."""
        return None


class LongStanding:
    """Nodes to come, as many as may be needed."""

    def __init__(self, folder: Path, count: int) -> None:
        """Makes their keys."""
        self._folders: deque[Path] = deque()
        self._nodes: list[NodeId] = []
        for number in range(count):
            state = StateFolder(folder / f"trusted-{number}")
            self._nodes.append(state.identity().node_id)
            self._folders.append(state.path)
            state.close()

    @property
    def members(self) -> Members:
        """How they stand."""
        return Members(self._nodes)

    def next(self) -> Path:
        """The state folder of one that has not come yet. Raises IndexError when all have."""
        return self._folders.popleft()

    def note(self, folder: Path, manifest: Manifest) -> None:
        """Writes down what they have passed, where the coordinator looks for it."""
        subjects = (
            AuditSubject(node, expert, __version__)
            for node, expert in itertools.product(self._nodes, manifest.experts)
        )
        PassedAudits(folder, manifest.digest).save(dict.fromkeys(subjects, TRUSTED_AUDITS))
