"""Measures every adversary: on a real network, and in as many runs without a wire as a 99th percentile needs.

Guarantees: seeds are fixed; what remains to chance is the coordinator's own secret randomness. Adversaries come one after the
other, so none helps or hides another.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .arena import Bout, arena
from .kinds import Adversary
from .model import prepared
from .rehearsal import SELDOM, Rehearsed, rehearse, rehearsed
from .report import Measured

SEED = 4
FEWER_RUNS = 200
"""Of adversaries that seldom cheat, whose runs are long."""


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        bouts, bout_calls: Runs of each adversary on the wire, and after how many calls one is given up.
        runs, run_calls: The same without.
        seldom_calls: After how many calls a run without a wire is given up, where an adversary cheats once in 128 rows.
    """

    bouts: int = 3
    bout_calls: int = 1500
    runs: int = 1000
    run_calls: int = 2000
    seldom_calls: int = 40_000

    def most_calls(self, adversary: Adversary) -> int:
        """After how many calls a run without a wire is given up."""
        return self.seldom_calls if adversary is Adversary.ONE_ROW_IN_128 else self.run_calls


QUICK = Extent(bouts=1, bout_calls=300, runs=20, run_calls=500, seldom_calls=500)


def measure(
    folder: Path, extent: Extent, adversaries: Sequence[Adversary] = tuple(Adversary)
) -> list[Measured]:
    """Measures them with the model below `folder`."""
    model = prepared(folder)
    with tempfile.TemporaryDirectory(prefix="folkmoot-adversaries-") as scratch:
        bouts, audited = asyncio.run(_on_the_wire(folder, Path(scratch) / "network", extent, adversaries))
        measured = []
        for adversary in adversaries:
            many: Rehearsed | None = None
            cap = extent.most_calls(adversary)
            if rehearsed(adversary):
                _tell(f"{adversary.name.lower()}: {extent.runs} runs without a wire")
                runs = min(extent.runs, FEWER_RUNS) if adversary in SELDOM else extent.runs
                many = rehearse(model, Path(scratch) / "sketches", adversary, runs, cap, SEED)
            measured.append(
                Measured(adversary, bouts[adversary], extent.bout_calls, many, cap, audited[adversary])
            )
    return measured


async def _on_the_wire(
    folder: Path, scratch: Path, extent: Extent, adversaries: Sequence[Adversary]
) -> tuple[dict[Adversary, list[Bout]], dict[Adversary, list[bool | None]]]:
    """Bouts, and whether audited answers were the honest ones."""
    fought: dict[Adversary, list[Bout]] = {adversary: [] for adversary in adversaries}
    audited: dict[Adversary, list[bool | None]] = {adversary: [] for adversary in adversaries}
    async with arena(prepared(folder), scratch) as network:
        for adversary in adversaries:
            _tell(f"{adversary.name.lower()}: {extent.bouts} on the wire")
            for number in range(extent.bouts):
                fought[adversary].append(await network.fight(adversary, SEED + number, extent.bout_calls))
        # After all bouts: audits that end because nobody waits any more are not counted one by one.
        for adversary in adversaries:
            _tell(f"{adversary.name.lower()}: {extent.bouts} times audited answers")
            for _ in range(extent.bouts):
                audited[adversary].append(await network.ask_audited(adversary))
    return fought, audited


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
