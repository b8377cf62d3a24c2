"""The ways to cheat that the network is measured against.

Guarantees: each is one kind of node (`nodes.AdversaryNode`), which does what its value says and is honest in all else; what the
network should make of it is part of its definition.
"""

from __future__ import annotations

from enum import Enum, StrEnum


class Fate(Enum):
    """What becomes of a cheat, however often it takes."""

    VERDICT = "an audit fails, a recomputation shows that what it signed is wrong, and the evidence convinces anyone"
    STRIKES = "its openings are not its own, though its results are right, which proves nothing against it"
    REJECTED = "what it sends is rejected one by one, before it counts"


class Adversary(StrEnum):
    """Ways to cheat."""

    INT8_CHANNEL = "int8 weights, a scale for each row"
    INT8_BLOCK = "int8 weights in blocks of 32"
    INT4 = "int4 weights in blocks of 32"
    FP8 = "fp8 e4m3 weights"
    LOW_RANK = "weights of 10 of 11 ranks"
    PARTIAL_NEURONS = "leaves out one neuron in eight"
    WRONG_EXPERT = "computes another expert than it was asked for"
    ZEROS = "answers zeros"
    GARBAGE = "answers random numbers of the right size"
    STALE_OUTPUT = "answers what it answered to the frame before"
    ONE_ROW_IN_128 = "leaves out one row in 128"
    WHEN_UNWATCHED = "int8 weights, but only while it has not been audited for 32 frames"
    BIAS = "answers 1 % too much"
    FIXED_DIRECTION = "adds 0.3 % of each row's size in one direction"
    HONEST_OPENING = "int8 weights, but opens what the true ones give"
    NO_OPENING = "int8 weights, and never opens"
    LATE_OPENING = "int8 weights, and opens what the true ones give once it is too late"
    SLOW_OPENING = "int8 weights, and opens as late as it may"
    FORGED_OPENING = "signs its openings with another key"
    REPLAYED_OPENING = "opens the same to every challenge"
    REPLAY = "sends its first result again under each new number"
    REORDER = "sends each two results under each other's number"
    FORGED_SIGNATURE = "signs its results with another key"
    EMPTY_SIGNATURE = "does not sign"
    SMALL_ORDER_SIGNATURE = "sends the one signature that a key of small order makes for everything"
    SMALL_ORDER_KEY = "enrols under a key of small order, for which that one signature fits everything"
    MALLEATED_SIGNATURE = "adds the group's order to its signatures, which only lax verifiers take"
    RECEIPTS_FOR_WORK_NOT_DONE = "agrees with receipts that it was not given, for more than it did"

    @property
    def fate(self) -> Fate:
        """What should become of it."""
        return _FATES.get(self, Fate.VERDICT)


_FATES = {
    Adversary.FORGED_OPENING: Fate.STRIKES,
    Adversary.REPLAY: Fate.REJECTED,
    Adversary.REORDER: Fate.REJECTED,
    Adversary.FORGED_SIGNATURE: Fate.REJECTED,
    Adversary.EMPTY_SIGNATURE: Fate.REJECTED,
    Adversary.SMALL_ORDER_SIGNATURE: Fate.REJECTED,
    Adversary.SMALL_ORDER_KEY: Fate.REJECTED,
    Adversary.MALLEATED_SIGNATURE: Fate.REJECTED,
    Adversary.RECEIPTS_FOR_WORK_NOT_DONE: Fate.REJECTED,
}
