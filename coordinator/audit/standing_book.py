"""How every node stands, kept over restarts.

Guarantees: a quarantine, a ban, a pardon, a promotion and a strike are durable before anybody is told of them, if the books can be
written; if they cannot, they are tried again, and the node is out all the same. When nodes are too many, mere newcomers are forgotten
first. Strikes lapse by a clock that nobody sets while the process lives, and none that was kept lies in the future. May be used from any
thread; those who subscribed are told of a change of status in the thread that made it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from ...errors import FolkmootError
from ...ids import NodeId, short
from ...trust import standing as rules
from ...trust.standing import Standing, StandingSettings, Status

log = logging.getLogger(__name__)

MOST_NEWCOMERS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Record:
    """One node's standing, and what people call it."""

    standing: Standing
    name: str = ""

    @property
    def worth_keeping(self) -> bool:
        """Whether it says more than that the node is new."""
        standing = self.standing
        at_work = standing.status is not Status.PROBATION or standing.passed > 0 or bool(standing.strikes_s)
        return at_work or standing.admitted_s > 0


class Shelf(Protocol):
    """Where standings are kept; any thread."""

    def take_all(self) -> dict[NodeId, Record]:
        """How every node stood when it was opened; once."""
        ...

    def put(self, node: NodeId, record: Record | None) -> None:
        """How a node stands now, None to forget it; waits for nothing."""
        ...

    @property
    def saved(self) -> bool:
        """Whether all that was put is durable."""
        ...

    def save(self) -> FolkmootError | None:
        """Makes it so, or says why that cannot be now; it is then tried again."""
        ...


class StandingBook:
    """The standings of one coordinator's nodes."""

    def __init__(
        self,
        shelf: Shelf | None,
        settings: StandingSettings,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes up what was kept.

        Args:
            shelf: Where it is kept; None keeps nothing.
            settings: The rules.
            clock: Seconds of the calendar.
            monotonic: Seconds that nobody sets.
        """
        self.settings = settings
        self._shelf = shelf
        self._clock = clock
        self._monotonic = monotonic
        # Strikes are kept over restarts, so they are told by the calendar as it was when this began.
        self._began_s = clock() - monotonic()
        self._lock = threading.RLock()
        kept = shelf.take_all() if shelf is not None else {}
        self._records = {node: self._not_ahead(record) for node, record in kept.items()}
        self._subscribers: list[Callable[[NodeId], None]] = []

    def of(self, node: NodeId) -> Standing:
        """How a node stands."""
        record = self._records.get(node)
        return rules.newcomer(self._clock()) if record is None else record.standing

    def records(self) -> dict[NodeId, Record]:
        """Everything that is known right now."""
        # One copy is one step of the interpreter: whoever asks never waits for a disk.
        return dict(self._records)

    def refusal(self, node: NodeId) -> str | None:
        """Why a node may not serve; None when it may."""
        standing = self.of(node)
        return None if standing.serves else f"this node is {standing.status.value}: {standing.reason}"

    def met(self, node: NodeId, name: str) -> None:
        """A node enrolled or attached under this name."""
        with self._lock:
            record = self._records.get(node)
            standing = rules.newcomer(self._clock()) if record is None else record.standing
            met = Record(standing, name)
            if met != record:
                self._keep(node, met)

    def subscribe(self, on_change: Callable[[NodeId], None]) -> None:
        """Calls the function after each change of a node's status."""
        self._subscribers.append(on_change)

    def audit_passed(self, node: NodeId) -> None:
        """The node passed an audit."""
        if self.of(node).status is Status.PROBATION:
            self._change(node, lambda standing, now_s: rules.audit_passed(standing, self.settings, now_s))

    def struck(self, node: NodeId, what: str) -> None:
        """The node did something that is no fraud, but that too much of is not to be had."""
        self._change(
            node,
            lambda standing, now_s: rules.struck(standing, self.settings, now_s, what, self._steady_s()),
        )

    def convicted(self, node: NodeId, what: str, decided_s: float = 0.0) -> None:
        """A verdict was found against the node, now, or when it was decided if that is later by this calendar."""
        self._change(node, lambda standing, now_s: rules.convicted(standing, max(now_s, decided_s), what))

    def quarantined(self, node: NodeId, why: str) -> None:
        """The node is out until admitted: at the operator's word, or because it was cut off too often."""
        self._change(node, lambda standing, now_s: rules.quarantined(standing, now_s, why))

    def banned(self, node: NodeId, why: str) -> None:
        """The operator wants the node out for good."""
        self._change(node, lambda standing, now_s: rules.banned(standing, now_s, why))

    def admitted(self, node: NodeId, why: str) -> None:
        """The operator wants the node in again."""
        self._change(node, lambda standing, now_s: rules.admitted(standing, now_s, why))

    @property
    def saved(self) -> bool:
        """Whether all that is to be kept is durable."""
        return self._shelf is None or self._shelf.saved

    def save(self) -> None:
        """Makes durable what is not yet; books that cannot be written are only remarked on, and tried again."""
        if self._shelf is not None and (fault := self._shelf.save()) is not None:
            log.error("how nodes stand is not kept yet: %s", fault)

    def _steady_s(self) -> float:
        return self._began_s + self._monotonic()

    def _not_ahead(self, record: Record) -> Record:
        """The calendar may have been set back since: a strike from its future would not lapse for as long."""
        strikes_s = tuple(min(at, self._steady_s()) for at in record.standing.strikes_s)
        if strikes_s == record.standing.strikes_s:
            return record
        return replace(record, standing=replace(record.standing, strikes_s=strikes_s))

    def _keep(self, node: NodeId, record: Record) -> None:
        self._records[node] = record
        if self._shelf is None:
            return
        self._shelf.put(node, record)
        if len(self._records) > MOST_NEWCOMERS:
            for known, kept in list(self._records.items()):
                if not kept.worth_keeping:
                    del self._records[known]
                    self._shelf.put(known, None)

    def _change(self, node: NodeId, rule: Callable[[Standing, float], Standing]) -> None:
        with self._lock:
            now_s = self._clock()
            record = self._records.get(node) or Record(rules.newcomer(now_s))
            before, after = record.standing, rule(record.standing, now_s)
            self._keep(node, replace(record, standing=after))
        changed = after.status is not before.status or after.since_s != before.since_s
        if changed or after.strikes_s != before.strikes_s:
            self.save()  # not under the lock: the event loop must not wait for a disk
        if changed:
            log.info("node %s (%s) is now %s: %s", short(node), record.name, after.status.value, after.reason)
            for on_change in self._subscribers:
                on_change(node)
