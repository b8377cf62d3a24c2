"""The steward: turns who is there into who is told to hold what.

Guarantees: placement is decided off the event loop, a moment after the last change, from one snapshot; assignments change
only by `next_assignments`, so coverage never shrinks while experts move; frames are routed to an expert on a node only
from the node's report that it is ready until it is told to drop it. A fault is logged and costs a pause, never placement
itself: it begins anew from who is there, and tells everybody again what to hold. Traffic and measured speeds change the
placement only every so often, and only while nothing else moves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from ...ids import ExpertKey, NodeId, short
from ...models.manifest import Manifest
from ...node_states import NodeState, Wish
from ...protos.folkmoot.v1 import link_pb2
from ..audit.standing_book import StandingBook
from ..books.placement_memory import PlacementMemory, Remembered
from ..dispatch.directory import Directory
from ..placement.place import place
from ..placement.snapshot import NodeCapacity, Target
from ..placement.transition import Holder, next_assignments
from ..self_host.hosting import SelfHosting
from .outlook import Measured, Outlook
from .roster import Member, Roster
from .settings import HubSettings

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
"""After a fault, before placement is tried again; each fault in a row doubles the pause."""
FOLD_S = 5.0
"""How often the rows that were sent are counted, if not oftener."""


class Steward:
    """Places one model's experts on the members of a roster. Event loop only."""

    def __init__(
        self,
        manifest: Manifest,
        roster: Roster,
        directory: Directory,
        settings: HubSettings,
        memory: PlacementMemory | None,
        standings: StandingBook,
        outlook: Outlook | None = None,
        own: SelfHosting | None = None,
        owner_of: Callable[[NodeId], str] = str,
    ) -> None:
        """`memory` keeps assignments over a restart, None forgets them; `standings` say whom to give how much, `outlook` what
        was measured; `own` is what the coordinator hosts itself, None when that is nothing; `owner_of` says whose a node is, its
        own id where that is not known.
        """
        self._sizes = {key: manifest.expert_bytes(key) for key in manifest.experts}
        self._layers_together = manifest.sliced
        self._roster = roster
        self._directory = directory
        self._settings = settings
        self._memory = memory
        self._standings = standings
        self._outlook = outlook or Outlook(None)
        self._own = own
        self._owner_of = owner_of
        self.after_turn: Callable[[Target], None] = lambda target: None
        self._tidy_moves = 0
        self._target: Target = {}
        self._target_is_old = False
        self._told_is_known = True
        self._wake = asyncio.Event()

    def members_changed(self) -> None:
        """Someone came, went for good, or can hold less than was thought: place again, soon."""
        self._target_is_old = True
        self._wake.set()

    def reported(self, member: Member, refused_more: bool) -> None:
        """A member reported what it holds: routes change at once, assignments soon."""
        self.route(member)
        if refused_more:
            member.usable_bytes = sum(self._sizes[key] for key in member.assigned - member.refused)
            self._target_is_old = True
        self._wake.set()

    def counts_on(self, member: Member, *, counted_on: bool) -> None:
        """From now on placement counts on a member, or does not any more."""
        member.counted_on = counted_on
        self.members_changed()

    def look_again(self) -> None:
        """Something that no message tells of may have changed."""
        self._wake.set()

    def measured(self, member: Member, bytes_per_second: float) -> None:
        """A member's speed was seen for the first time: the next placement knows it."""
        self._outlook.first_seen(member.node, member.memory_bytes, bytes_per_second)

    def route(self, member: Member) -> None:
        """Frames are sent to what a member serves, and to nothing else of it."""
        if member.link is not None and not member.link.closed.is_set():
            self._directory.update(member.link, member.routable)

    async def run(self) -> None:
        """Places and assigns until cancelled."""
        beside = [asyncio.create_task(self._watch())]
        if self._own is not None:
            beside.append(asyncio.create_task(self._own.run(self._directory, self._own_changed)))
            self.members_changed()
        try:
            await self._follow()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    def _own_changed(self, refused_more: bool) -> None:
        """The coordinator has more ready itself, or cannot read some of it."""
        self._target_is_old |= refused_more
        self._wake.set()

    async def _follow(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await self._turn()
                pause_s = FIRST_PAUSE_S
            except Exception:  # whatever it is, nobody would be told what to hold from then on
                log.exception(
                    "placement failed; what nodes hold stays, and it is tried again in %g s", pause_s
                )
                self._told_is_known = False
                self.members_changed()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _turn(self) -> None:
        """Waits for the next change, and follows it."""
        await self._wake.wait()
        await asyncio.sleep(self._settings.settle_s)
        self._wake.clear()
        if self._target_is_old:
            self._target_is_old = False
            tidy_moves, self._tidy_moves = self._tidy_moves, 0
            self._target = await asyncio.to_thread(
                place,
                self._capacities(),
                self._sizes,
                replicas=self._settings.replicas,
                layers_together=self._layers_together,
                traffic=self._outlook.traffic,
                tidy_moves=tidy_moves,
                own=self._own.capacity() if self._own is not None else None,
            )
        changed = self._assign()
        self.after_turn(self._target)
        if changed and self._memory is not None:
            known = {
                member.node: Remembered(member.memory_bytes, member.assigned)
                for member in self._roster.all()
                if member.assigned
            }
            await asyncio.to_thread(self._memory.save, known)

    async def _watch(self) -> None:
        """Counts the rows that are sent, and lets what was measured change the placement when it is time."""
        interval_s = self._settings.replan_s
        step_s, waited_s = min(FOLD_S, interval_s), 0.0
        while True:
            await asyncio.sleep(step_s)
            waited_s += step_s
            try:
                await asyncio.to_thread(self._outlook.fold)
                if waited_s >= interval_s and self._settled():
                    waited_s = 0.0
                    await self._look()
            except Exception:  # measurements are worth much, but not placement itself
                log.exception("what was measured cannot be taken in; placement goes on without it")

    async def _look(self) -> None:
        """Takes in what was measured, and places with it."""
        measured = {
            member.node: Measured(
                member.memory_bytes, member.link.pace.seconds_per_byte, member.link.pace.shortest_round_trip_s
            )
            for member in self._roster.attached()
            if member.link is not None
        }
        await asyncio.to_thread(self._outlook.look, measured)
        copies = sum(len(keys) for keys in self._target.values())
        self._tidy_moves = int(self._settings.tidy_share * copies)
        self.members_changed()

    def _settled(self) -> bool:
        """Whether everyone that is counted on is there and holds what it should end with."""
        if self._own is not None and not self._own.settled(self._target.get(self._own.node, frozenset())):
            return False
        return not self._target_is_old and all(
            member.state is NodeState.READY and member.assigned == self._target.get(member.node)
            for member in self._roster.all()
            if member.counted_on
        )

    async def recall(self) -> list[Member]:
        """Counts on the nodes of the last time, so that none is given what another still has; who they are.

        They are counted on until whoever asked no longer waits for them.
        """
        if self._memory is None:
            return []
        return [
            self._roster.expected(node, known.memory_bytes, known.assigned)
            for node, known in (await asyncio.to_thread(self._memory.load)).items()
        ]

    def _capacities(self) -> list[NodeCapacity]:
        return [
            NodeCapacity(
                member.node,
                member.usable_bytes,
                (member.assigned | member.ready) - member.refused,
                owner=self._owner_of(member.node),
                most_experts=self._standings.of(member.node).most_experts(self._standings.settings),
                bytes_per_second=self._outlook.bytes_per_second(member.node),
                round_trip_s=self._outlook.round_trip_s(member.node),
            )
            for member in self._roster.all()
            if member.counted_on
        ]

    def _assign(self) -> bool:
        """Tells nodes what has changed for them; whether anything had."""
        members = {
            member.node: member
            for member in self._roster.attached()
            if (member.node in self._target and member.wish is Wish.SERVE) or member.wish is Wish.DRAIN
        }
        holders = [
            Holder(node, member.usable_bytes, member.routable, member.unproven)
            for node, member in members.items()
        ]
        if self._own is not None:
            holders.append(self._own.holder())
        changed = False
        for node, keys in next_assignments(self._target, holders, self._sizes).items():
            if self._own is not None and node == self._own.node:
                self._own.assign(keys, self._directory)
                continue
            member = members[node]
            if not (self._told_is_known and member.epoch) or frozenset(keys) != member.assigned:
                self._tell(member, keys)
                changed = True
        self._told_is_known = True
        return changed

    def _tell(self, member: Member, keys: tuple[ExpertKey, ...]) -> None:
        before = member.assigned if member.epoch else frozenset()
        member.told(frozenset(keys))
        log.info(
            "node %s (%s) is told to hold %d experts (%d new, %d to drop)",
            short(member.node),
            member.name,
            len(keys),
            len(member.assigned - before),
            len(before - member.assigned),
        )
        self.route(member)
        assignment = link_pb2.Assignment(epoch=member.epoch, experts=_ranges(keys))
        if member.link is not None:
            member.link.changes.grant()
            member.link.post(link_pb2.CoordinatorMessage(assignment=assignment))


def _ranges(keys: Iterable[ExpertKey]) -> list[link_pb2.ExpertRange]:
    """The keys in the order given, neighbours of one layer in one range."""
    ranges: list[link_pb2.ExpertRange] = []
    for key in keys:
        if not ranges or ranges[-1].layer != key.layer:
            ranges.append(link_pb2.ExpertRange(layer=key.layer))
        ranges[-1].experts.append(key.expert)
    return ranges
