"""What the coordinator hosts itself: what it was told to hold, and what of it is ready.

Guarantees: an expert is ready only after all of its bytes were read and found to be those that the manifest names; what is held, and
what is on its way, is never more than placement gave; what it is told to drop gets no rows of calls that are planned from that moment on,
and its memory goes back to the system. An expert that cannot be read is refused, with a line in the log, and left to the nodes; a fault
is logged, and ends nothing. All but `host` belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...amounts import format_bytes
from ...errors import ModelError
from ...ids import ExpertKey, NodeId
from ...models.mapped_experts import MappedExperts
from ...models.prepared import PreparedModel
from ..dispatch.directory import Directory
from ..placement.snapshot import OwnCapacity
from ..placement.transition import Holder
from .own_host import OwnHost

log = logging.getLogger(__name__)

BATCH_BYTES = 64 << 20
"""So much is read before what was read is used: every batch changes the directory once."""


@dataclass(frozen=True)
class OwnSnapshot:
    """What the coordinator hosts itself, at one moment."""

    memory_bytes: int
    held_bytes: int
    experts: int
    experts_assigned: int

    def document(self) -> dict[str, Any]:
        """What `/v1/network` says of it."""
        return dict(vars(self))


class SelfHosting:
    """The coordinator's own experts.

    Attributes:
        host: What computes with them.
        assigned: What it was told to hold.
        ready: What has been read and found right, and is not to be dropped.
        refused: What cannot be read.
    """

    def __init__(self, node: NodeId, prepared: PreparedModel, memory_bytes: int) -> None:
        """`node` is the coordinator's key as an id; `memory_bytes`, the most that all its experts may have."""
        self._manifest = prepared.manifest
        self._experts = MappedExperts(prepared)
        self._memory_bytes = memory_bytes
        self.host = OwnHost(node, self._experts)
        self.assigned: frozenset[ExpertKey] = frozenset()
        self.ready: frozenset[ExpertKey] = frozenset()
        self.refused: frozenset[ExpertKey] = frozenset()
        self._order: tuple[ExpertKey, ...] = ()
        self._told = asyncio.Event()

    @property
    def node(self) -> NodeId:
        """What placement calls it."""
        return self.host.node

    def capacity(self) -> OwnCapacity:
        """What placement is to know of it."""
        return OwnCapacity(self.node, self._memory_bytes, self.assigned, self.refused)

    def holder(self) -> Holder:
        """What it has, as the transition to a new placement counts it."""
        return Holder(self.node, self._memory_bytes, self.ready)

    def settled(self, wanted: frozenset[ExpertKey]) -> bool:
        """Whether it holds what it should end with."""
        return self.assigned == wanted and self.assigned <= self.ready | self.refused

    def snapshot(self) -> OwnSnapshot:
        """How it is now."""
        return OwnSnapshot(
            memory_bytes=self._memory_bytes,
            held_bytes=sum(self._manifest.expert_bytes(key) for key in self.ready),
            experts=len(self.ready),
            experts_assigned=len(self.assigned),
        )

    def assign(self, keys: Sequence[ExpertKey], directory: Directory) -> bool:
        """It is to hold these, most urgent first; whether that is new."""
        wanted = frozenset(keys)
        if wanted == self.assigned:
            return False
        log.info(
            "the coordinator is to host %d experts itself (%d new, %d to drop)",
            len(wanted),
            len(wanted - self.assigned),
            len(self.assigned - wanted),
        )
        dropped = self.ready - wanted
        self.assigned, self._order = wanted, tuple(keys)
        if dropped:
            self.ready -= dropped
            directory.update(self.host, self.ready)
            self._let_go(dropped)
        self._told.set()
        return True

    async def run(self, directory: Directory, on_change: Callable[[bool], None]) -> None:
        """Makes ready what is assigned, until cancelled.

        Args:
            directory: Is told of everything that is ready.
            on_change: Called after each change, with whether more is refused than before.
        """
        while True:
            await self._told.wait()
            self._told.clear()
            try:
                await self._make_ready(directory, on_change)
            except Exception:
                log.exception(
                    "the coordinator cannot make its own experts ready; it goes on when it is told others"
                )

    async def _make_ready(self, directory: Directory, on_change: Callable[[bool], None]) -> None:
        while batch := self._next_batch():
            refused = await asyncio.to_thread(self._unreadable, batch)
            self.refused |= refused
            self.ready |= (batch - refused) & self.assigned
            self._let_go(batch - self.ready)
            directory.update(self.host, self.ready)
            on_change(bool(refused))
        held = self.snapshot()
        log.info(
            "the coordinator hosts %d of %d experts itself (%s)",
            held.experts,
            len(self._manifest.experts),
            format_bytes(held.held_bytes),
        )

    def _next_batch(self) -> frozenset[ExpertKey]:
        batch: set[ExpertKey] = set()
        size = 0
        for key in self._order:
            if key not in self.ready and key not in self.refused:
                batch.add(key)
                size += self._manifest.expert_bytes(key)
                if size >= BATCH_BYTES:
                    break
        return frozenset(batch)

    def _unreadable(self, keys: frozenset[ExpertKey]) -> frozenset[ExpertKey]:
        """Reads experts, and returns those that are not as they should be."""
        refused = set()
        for key in sorted(keys):
            try:
                self._experts.check(key)
                self._experts.expert(key)
            except (ModelError, OSError, ValueError) as error:  # an empty file cannot be mapped
                log.error("the coordinator cannot host %s itself: %s", key, error)
                refused.add(key)
        return frozenset(refused)

    def _let_go(self, keys: frozenset[ExpertKey]) -> None:
        for key in keys:
            try:
                self._experts.let_go(key)
            except (ModelError, OSError, ValueError) as error:  # what cannot be mapped has no memory here
                log.debug("%s has nothing to give back: %s", key, error)
