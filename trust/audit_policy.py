"""Which calls are audited: the rate rule.

Guarantees: a pure state machine without clock or randomness of its own. For each subject (node, expert, software version) every call is
audited until 50 audits have passed, then a share of max(2 %, 1 / n), n counting the audits passed; a failed audit sets n back to 0, and
so does a new software version, for it is another subject. Calls that were not audited never lower the rate, so no amount of good
behaviour unobserved buys trust; where chance has passed over four times as many of a subject's calls in a row as lie between two audits
on average, the next is chosen: at 2 % whoever always cheats is chosen within 201 calls, not only in 98 % of all cases; what was chosen
and given up does not count. Raw and tight openings are asked for equally often, each time as a secret number has it: whoever could
foresee which comes next could cheat where that one sees less.

One number decides for all experts of a call. Outputs are summed per row, so whoever asks for one expert's part of a row has to ask
for all: with a number for each expert nearly half of all calls of 32 experts would be opened at a rate of 2 %, nearly whole, and no
expert of them would be seen more often.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ..errors import UsageError
from ..ids import ExpertKey, NodeId
from .audit_statements import OpeningKind

FIRST_AUDITS: Final = 50
LOWEST_RATE: Final = 0.02
LONGEST_GAP: Final = 4
"""Calls in a row that chance may pass over, in mean distances of two audits. One gap in fifty is cut short by it."""


def kind_of(draw: float) -> OpeningKind:
    """How an opening is asked for, by a number uniform in [0, 1) from a secret source: both ways equally often."""
    return OpeningKind.RAW if draw < 0.5 else OpeningKind.TIGHT


class AuditSubject(NamedTuple):
    """What a record of audits is about."""

    node: NodeId
    expert: ExpertKey
    software_version: str


@dataclass(frozen=True, slots=True)
class AuditPolicySettings:
    """The rate rule's numbers.

    Attributes:
        first_audits: Calls of a subject that are all audited.
        lowest_rate: The share of calls that is audited however long all has been well.
    """

    first_audits: int = FIRST_AUDITS
    lowest_rate: float = LOWEST_RATE

    def __post_init__(self) -> None:
        if self.first_audits < 1 or not 0 < self.lowest_rate <= 1:
            raise UsageError(
                f"an audit rate of {self.lowest_rate} after {self.first_audits} calls cannot be",
                advice="name a rate above 0 and up to 1, and at least one call",
            )


@dataclass(slots=True)
class AuditPolicy:
    """The records of all subjects, and what follows from them.

    Attributes:
        settings: The rule's numbers.
        passed: n of each subject: audits passed since its first or its last failure.
        passed_over: Calls of each subject since one was last chosen.
    """

    settings: AuditPolicySettings = field(default_factory=AuditPolicySettings)
    passed: dict[AuditSubject, int] = field(default_factory=dict)
    passed_over: dict[AuditSubject, int] = field(default_factory=dict)

    def rate(self, subject: AuditSubject) -> float:
        """The share of the subject's calls that chance has audited now."""
        audits = self.passed.get(subject, 0)
        if audits < self.settings.first_audits:
            return 1.0
        return max(self.settings.lowest_rate, 1 / audits)

    def choose(
        self, subjects: Sequence[AuditSubject], draw: float, *, always: bool = False
    ) -> list[AuditSubject]:
        """The subjects of one call whose rows are audited.

        Args:
            subjects: One for each expert of the call.
            draw: Uniform in [0, 1), from a secret source: whoever knows it knows when to cheat.
            always: Whether the node is one of whom everything is audited.
        """
        return [subject for subject in subjects if self._chosen(subject, draw, always)]

    def is_due(self, chosen: Sequence[AuditSubject], draw: float) -> bool:
        """Whether an audit of the chosen may not be put off: the lowest rate asks for it, or chance has passed over one of them for
        too long. What the first audits ask for beyond that rate may wait."""
        return draw < self.settings.lowest_rate or any(self.rate(subject) < 1 for subject in chosen)

    def _chosen(self, subject: AuditSubject, draw: float, always: bool) -> bool:
        rate, passed_over = self.rate(subject), self.passed_over.get(subject, 0)
        chosen = always or draw < rate or passed_over * rate >= LONGEST_GAP
        self.passed_over[subject] = 0 if chosen else passed_over + 1
        return chosen

    def given_up(self, subjects: Iterable[AuditSubject]) -> None:
        """No audit came of choosing these: the next call of each is chosen again."""
        for subject in subjects:
            self.passed_over[subject] = math.ceil(LONGEST_GAP / self.settings.lowest_rate)

    def keep_version(self, node: NodeId, version: str) -> None:
        """Drops all records of a node under other versions: it says itself what it runs, and may say anything."""
        for records in (self.passed, self.passed_over):
            for subject in [one for one in records if one.node == node and one.software_version != version]:
                del records[subject]

    def record(self, subject: AuditSubject, passed: bool) -> None:
        """Notes how an audit of the subject ended."""
        self.passed[subject] = self.passed.get(subject, 0) + 1 if passed else 0

    def forget(self, node: NodeId) -> None:
        """Drops all records of a node: when it comes back it begins anew."""
        for records in (self.passed, self.passed_over):
            for subject in [subject for subject in records if subject.node == node]:
                del records[subject]

    def restore(self, passed: Mapping[AuditSubject, int]) -> None:
        """Takes up the audits passed that were kept; numbers below 0 are none."""
        self.passed = {subject: max(0, audits) for subject, audits in passed.items()}
