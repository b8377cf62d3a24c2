"""Nodes whose contributors want a pause, or to go.

Guarantees: a node that pauses gets no frame that is planned from then on, and keeps what it holds; one that drains serves until
others have all that it holds, and only then, or at its contributor's second word, is told that it may go. Where that leaves
experts without a host, the node and the log are told, and nobody is kept from it: it is the contributor's machine. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from ...amounts import format_bytes
from ...ids import ExpertKey, short
from ...node_states import Wish
from ..dispatch.directory import Directory
from ..placement.snapshot import Target
from .graces import Graces
from .roster import Member, Roster
from .steward import Steward

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.05
"""After which a node that may go but still has frames to answer is looked at again."""


class Departures:
    """The wishes of one network's contributors."""

    def __init__(
        self,
        sizes: Mapping[ExpertKey, int],
        roster: Roster,
        directory: Directory,
        steward: Steward,
        graces: Graces,
    ) -> None:
        """`sizes` are the bytes of each expert."""
        self._sizes = sizes
        self._roster = roster
        self._directory = directory
        self._steward = steward
        self._graces = graces
        self._again: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Looks at nobody any more."""
        if self._again is not None:
            self._again.cancel()

    def wished(self, member: Member, wish: Wish, reason: str, *, at_once: bool) -> None:
        """What a contributor wants from now on."""
        log.info(
            "node %s (%s) wants to %s%s: %s",
            short(member.node),
            member.name,
            wish.value,
            " at once" if at_once else "",
            reason or "no reason is given",
        )
        served = member.routable
        member.wish, member.wish_reason, member.trouble, member.may_go = wish, reason, "", False
        self._graces.forget(member.node)
        match wish:
            case Wish.SERVE:
                self._steward.counts_on(member, counted_on=True)
            case Wish.PAUSE:
                self._pause(member, served)
            case Wish.DRAIN:
                self._steward.counts_on(member, counted_on=False)
                if at_once:
                    self._let_go(member, at_once=True)
        self._steward.route(member)
        member.settle()

    def review(self, target: Target) -> None:
        """Says of nodes that pause or drain what there is to say, now that everything should end as in `target`."""
        housed: frozenset[ExpertKey] = frozenset().union(*target.values())
        for member in self._roster.attached():
            if member.wish is Wish.PAUSE:
                member.trouble = self._missed(member.holds)
            elif member.wish is Wish.DRAIN and not member.may_go:
                homeless = member.holds - housed
                member.trouble = (
                    self._no_room(homeless) if homeless else "other nodes take over what it holds"
                )
                if member.epoch and not member.assigned:
                    self._let_go(member)
            else:
                continue
            member.settle()

    def _pause(self, member: Member, served: Iterable[ExpertKey]) -> None:
        self._steward.route(member)
        member.trouble = self._missed(served)
        if member.trouble:
            log.warning("node %s (%s) pauses: %s", short(member.node), member.name, member.trouble)
            self._steward.counts_on(member, counted_on=False)
        elif member.counted_on:
            self._graces.begin(member)

    def _let_go(self, member: Member, *, at_once: bool = False) -> None:
        if at_once:
            alone = sum(self._directory.replicas(key) == 1 for key in member.routable)
            member.trouble = (
                f"{alone} experts are left without a host" if alone else "others have what it held"
            )
            if alone:
                log.warning("node %s (%s) goes at once: %s", short(member.node), member.name, member.trouble)
        elif member.link is not None and member.link.rows_in_flight:
            self._look_again()
            return
        else:
            member.trouble = "other nodes have all that it held: it may go"
        member.may_go = True

    def _look_again(self) -> None:
        if (
            self._again is None
            or self._again.cancelled()
            or self._again.when() <= asyncio.get_running_loop().time()
        ):
            self._again = asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._steward.look_again)

    def _missed(self, keys: Iterable[ExpertKey]) -> str:
        alone = sum(not self._directory.replicas(key) for key in keys)
        return f"{alone} experts have no other host, and requests wait for one" if alone else ""

    def _no_room(self, homeless: Iterable[ExpertKey]) -> str:
        keys = list(homeless)
        size = format_bytes(sum(self._sizes[key] for key in keys))
        return f"other nodes have no room for {len(keys)} of its experts ({size}), so it serves on; draining again goes at once"
