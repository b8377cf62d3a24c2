"""Adversaries as nodes: the real daemon, with an executor that cheats.

Guarantees: an adversary joins, fetches, attaches and reports as any node does; only what its kind says differs.
"""

from __future__ import annotations

from collections.abc import Callable

from ...models.manifest import Manifest
from ...node.daemon import NodeDaemon
from ...node.executor import Executor, Send
from ...node.session import Session
from ...node.settings import NodeSettings
from ...node.tasks import ended
from . import changes, cheap_weights
from .claims import Claimant
from .executors import (
    LATE_BY_S,
    SLOW_SHARE,
    ChangedOutput,
    ChangedSignature,
    CheapWeights,
    Cheat,
    DelayedOpening,
    ForgedOpening,
    ForgedSignature,
    NoOpening,
    Reorder,
    Replay,
    ReplayedOpening,
    Seat,
    WhenUnwatched,
    WrongExpert,
)
from .kinds import Adversary

_EXECUTORS: dict[Adversary, Callable[[Seat], Executor]] = {
    Adversary.INT8_CHANNEL: lambda seat: CheapWeights(seat, cheap_weights.int8_channel),
    Adversary.INT8_BLOCK: lambda seat: CheapWeights(seat, cheap_weights.int8_block),
    Adversary.INT4: lambda seat: CheapWeights(seat, cheap_weights.int4),
    Adversary.FP8: lambda seat: CheapWeights(seat, cheap_weights.fp8),
    Adversary.LOW_RANK: lambda seat: CheapWeights(seat, cheap_weights.low_rank),
    Adversary.PARTIAL_NEURONS: lambda seat: CheapWeights(seat, cheap_weights.partial_neurons),
    Adversary.WRONG_EXPERT: WrongExpert,
    Adversary.ZEROS: lambda seat: ChangedOutput(seat, changes.zeros),
    Adversary.GARBAGE: lambda seat: ChangedOutput(seat, changes.Garbage()),
    Adversary.STALE_OUTPUT: lambda seat: ChangedOutput(seat, changes.Stale()),
    Adversary.ONE_ROW_IN_128: lambda seat: ChangedOutput(seat, changes.OneRowInMany()),
    Adversary.WHEN_UNWATCHED: lambda seat: WhenUnwatched(seat, cheap_weights.int8_channel),
    Adversary.BIAS: lambda seat: ChangedOutput(seat, changes.biased),
    Adversary.FIXED_DIRECTION: lambda seat: ChangedOutput(seat, changes.FixedDirection()),
    Adversary.HONEST_OPENING: lambda seat: CheapWeights(seat, cheap_weights.int8_channel, opens_true=True),
    Adversary.NO_OPENING: lambda seat: NoOpening(seat, cheap_weights.int8_channel),
    Adversary.LATE_OPENING: lambda seat: DelayedOpening(
        seat, cheap_weights.int8_channel, share=1.0, beyond_s=LATE_BY_S, opens_true=True
    ),
    Adversary.SLOW_OPENING: lambda seat: DelayedOpening(seat, cheap_weights.int8_channel, share=SLOW_SHARE),
    Adversary.FORGED_OPENING: ForgedOpening,
    Adversary.REPLAYED_OPENING: lambda seat: ReplayedOpening(seat, cheap_weights.int8_channel),
    Adversary.REPLAY: Replay,
    Adversary.REORDER: Reorder,
    Adversary.FORGED_SIGNATURE: ForgedSignature,
    Adversary.EMPTY_SIGNATURE: lambda seat: ChangedSignature(seat, changes.empty),
    Adversary.SMALL_ORDER_SIGNATURE: lambda seat: ChangedSignature(seat, changes.small_order),
    Adversary.SMALL_ORDER_KEY: Cheat,
    Adversary.MALLEATED_SIGNATURE: lambda seat: ChangedSignature(seat, changes.malleated),
    Adversary.RECEIPTS_FOR_WORK_NOT_DONE: Claimant,
}


def executor_of(adversary: Adversary, seat: Seat) -> Executor:
    """The executor that cheats in this way, in some node's seat."""
    return _EXECUTORS[adversary](seat)


class AdversaryNode(NodeDaemon):
    """A node that cheats in one way.

    Args:
        settings: As any node's.
        adversary: The way.

    Attributes:
        executor: That of the present life of its link.
        lives: How many lives the link has begun.
    """

    def __init__(self, settings: NodeSettings, *, adversary: Adversary) -> None:
        super().__init__(settings)
        self.adversary = adversary
        self.executor: Executor | None = None
        self.lives = 0

    def make_executor(self, session: Session, manifest: Manifest, send: Send) -> Executor:
        """A cheating one; what it remembers lasts for one life of the link."""
        seat = Seat(session, manifest, self.shelf, send, self.settings.threads, self.lives)
        self.lives += 1
        self.executor = executor_of(self.adversary, seat)
        return self.executor


class PasserBy(NodeDaemon):
    """An honest node that is there for a while."""

    async def vanish(self) -> None:
        """Is gone in the middle of whatever it does, without a word."""
        if self._living is not None:
            await ended(self._living)
        await self.stop()
