"""Nodes that come and go, in a seeded random order.

Guarantees: a node goes without being drained only when the witness surely knows another host of everything, so that every expert has a
live host at all times;
what happens next depends on the seed and on what is up, never on the clock; all waiting is for conditions, with a limit.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from folkmoot.tests.support.process_network import PATIENCE_S, ProcessNetwork
from folkmoot.tests.support.witness import Witness

POLL_S = 0.02


class Change(StrEnum):
    """What happens to a node."""

    KILL = "killed"
    """SIGKILL: it is gone in the middle of whatever it does."""
    STOP = "stopped"
    """SIGTERM: it says goodbye, and goes."""
    DRAIN = "drained"
    """`folkmoot node drain`: it hands over what it has, and goes; nobody has to be sure of others' before."""
    START = "started"
    """It comes, for the first time or with what it has on its disk."""


class Churn:
    """Changes one network.

    Attributes:
        happened: How often each change was made.
        log: All changes in order, for whoever has to find out what went wrong.
    """

    def __init__(self, network: ProcessNetwork, witness: Witness, *, seed: int, least: int) -> None:
        """`least` nodes stay up at any time."""
        self.happened: Counter[Change] = Counter()
        self.log: list[str] = []
        self._network, self._witness = network, witness
        self._draw = random.Random(seed)
        self._least = least
        self._up = list(network.names)
        self._down: list[str] = []
        self._began_s = time.monotonic()
        for name in self._up:
            witness.began(name, network.pid(name))

    def step(self) -> None:
        """Makes one change."""
        can_go, can_come = len(self._up) > self._least, bool(self._down)
        if can_come and (not can_go or self._draw.random() < len(self._down) / len(self._network.names)):
            self._start(self._draw.choice(self._down))
        elif can_go:
            self._end(self._draw.choice([Change.KILL, Change.STOP, Change.DRAIN]))

    def everybody_back(self) -> None:
        """Starts whoever is down."""
        for name in list(self._down):
            self._start(name)

    def _start(self, name: str) -> None:
        self._down.remove(name)
        self._network.start(name)
        self._witness.began(name, self._network.pid(name))
        self._up.append(name)
        self._note(Change.START, name)

    def _end(self, change: Change) -> None:
        """One node goes, the first in a random order that may."""
        candidates = self._draw.sample(self._up, len(self._up))
        if change is Change.DRAIN:
            name = candidates[0]
            self._witness.goes(name)
        else:
            name = self._first(lambda: next(filter(self._witness.may_end, candidates), None))
        self._up.remove(name)
        self._down.append(name)
        match change:
            case Change.KILL:
                self._network.kill(name)
            case Change.STOP:
                self._network.stop(name)
            case Change.DRAIN:
                ends = self._network.drain(name)
                assert set(ends.values()) == {"relieved"}, ends
        self._note(change, name)

    def _first(self, find: Callable[[], str | None]) -> str:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = find()
            if found is not None:
                return found
            self._network.check()
            assert time.monotonic() < deadline, f"nobody may go, so late as now: {self.log}"
            time.sleep(POLL_S)

    def _note(self, change: Change, name: str) -> None:
        self.happened[change] += 1
        self.log.append(f"{time.monotonic() - self._began_s:.1f} s: {name} is {change}")
