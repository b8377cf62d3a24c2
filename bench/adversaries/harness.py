"""Measures every adversary: on real networks, and in as many runs without a wire as a 99th percentile needs.

Guarantees: what the benchmark draws follows from one seed, new each time unless it is given, and told with what was measured; the
keys of nodes and the coordinator's own secret randomness on a wire do not. Adversaries come one after the other, so none helps or
hides another.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .arena import ArenaSettings, arena
from .audited import AUDITED_ARENA, MOST_TIMES, Asked, asking
from .bouts import Bout, fight, fight_trusted
from .kinds import Adversary
from .model import prepared
from .rehearsal import IN_MANY, SELDOM, Rehearsed, rehearse, rehearsed
from .report import Measured

SEED_BITS: Final = 31
NEVER_IN: Final = frozenset({Adversary.SMALL_ORDER_KEY})
"""Adversaries that no answer can have asked."""
TRUSTED: Final = (
    Adversary.INT8_BLOCK,
    Adversary.BIAS,
    Adversary.HONEST_OPENING,
    Adversary.SLOW_OPENING,
)
"""Adversaries that are let loose on a wire as trusted nodes too."""


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        bouts, bout_calls: Runs of each newcomer on the wire, and after how many calls one is given up.
        trusted_bouts, trusted_calls: The same of nodes that have long been trusted, of those kinds that are.
        asked: How often audited answers are asked for beside each.
        runs, run_calls: Without a wire.
        seldom_runs, seldom_calls: The same of an adversary that cheats once in 128 rows, and of one that does while nobody looks.
        in_many_runs: Runs without a wire of one whom no single audit proves anything against.
    """

    bouts: int = 3
    bout_calls: int = 1500
    trusted_bouts: int = 10
    trusted_calls: int = 20_000
    asked: int = 2
    runs: int = 600
    run_calls: int = 2000
    seldom_runs: int = 100
    seldom_calls: int = 40_000
    in_many_runs: int = 20

    def runs_of(self, adversary: Adversary) -> int:
        """How many runs without a wire."""
        if adversary in IN_MANY:
            return min(self.runs, self.in_many_runs)
        return min(self.runs, self.seldom_runs) if adversary in SELDOM else self.runs

    def most_calls(self, adversary: Adversary) -> int:
        """After how many calls a run without a wire is given up."""
        seldom = adversary is Adversary.ONE_ROW_IN_128 or adversary in IN_MANY
        return self.seldom_calls if seldom else self.run_calls


QUICK = Extent(
    bouts=1,
    bout_calls=300,
    trusted_bouts=1,
    asked=1,
    runs=20,
    run_calls=500,
    seldom_calls=500,
    in_many_runs=2,
)


def new_seed() -> int:
    """A seed that nobody chose."""
    return secrets.randbits(SEED_BITS)


def measure(
    folder: Path, extent: Extent, seed: int, adversaries: Sequence[Adversary] = tuple(Adversary)
) -> list[Measured]:
    """Measures them with the model below `folder`."""
    model = prepared(folder)
    with tempfile.TemporaryDirectory(prefix="folkmoot-adversaries-") as scratch:
        wire = asyncio.run(_on_wires(folder, Path(scratch), extent, seed, adversaries))
        measured = []
        for adversary in adversaries:
            many: Rehearsed | None = None
            runs, cap = extent.runs_of(adversary), extent.most_calls(adversary)
            if rehearsed(adversary):
                _tell(f"{adversary.name.lower()}: {runs} runs without a wire")
                many = rehearse(model, Path(scratch) / "sketches", adversary, runs, cap, seed)
            measured.append(
                Measured(
                    adversary,
                    wire.bouts[adversary],
                    extent.bout_calls,
                    many,
                    cap,
                    wire.asked[adversary],
                    wire.trusted[adversary],
                    seed,
                )
            )
    return measured


@dataclass(frozen=True)
class _OnWires:
    """What came of each adversary on real networks."""

    bouts: dict[Adversary, list[Bout]]
    asked: dict[Adversary, list[Asked]]
    trusted: dict[Adversary, list[Bout]]


async def _on_wires(
    folder: Path, scratch: Path, extent: Extent, seed: int, adversaries: Sequence[Adversary]
) -> _OnWires:
    model = prepared(folder)
    wire = _OnWires(defaultdict(list), defaultdict(list), defaultdict(list))
    async with arena(model, scratch / "newcomers") as network:
        for adversary in adversaries:
            _tell(f"{adversary.name.lower()}: {extent.bouts} on the wire")
            for number in range(extent.bouts):
                wire.bouts[adversary].append(
                    await fight(network, adversary, seed + number, extent.bout_calls)
                )
    trusted = [adversary for adversary in adversaries if adversary in TRUSTED]
    if trusted and extent.trusted_bouts:
        settings = ArenaSettings(trusted=len(trusted) * extent.trusted_bouts)
        async with arena(model, scratch / "trusted", settings) as network:
            for adversary in trusted:
                _tell(f"{adversary.name.lower()}: {extent.trusted_bouts} on the wire, long trusted")
                for number in range(extent.trusted_bouts):
                    wire.trusted[adversary].append(
                        await fight_trusted(network, adversary, seed + number, extent.trusted_calls)
                    )
    asked = [adversary for adversary in adversaries if adversary not in NEVER_IN]
    # One more of each for the node that vanishes.
    settings = dataclasses.replace(AUDITED_ARENA, trusted=len(asked) * extent.asked * (MOST_TIMES + 1))
    async with arena(model, scratch / "audited", settings) as network, asking(network) as requests:
        for adversary in asked:
            _tell(f"{adversary.name.lower()}: {extent.asked} times audited answers")
            for number in range(extent.asked):
                last = number == extent.asked - 1
                wire.asked[adversary].append(await requests.ask(adversary, vanishing=last))
    return wire


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
