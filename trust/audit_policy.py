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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
class _Record:
    """What is known of one subject.

    Attributes:
        passed: n: audits passed since its first or its last failure.
        rate: The share of its calls that chance has audited now.
        passed_over: Its calls since one was last chosen.
    """

    passed: int
    rate: float
    passed_over: int = 0


class AuditPolicy:
    """The records of all subjects, and what follows from them."""

    def __init__(self, settings: AuditPolicySettings | None = None) -> None:
        self.settings = settings or AuditPolicySettings()
        self._records: dict[AuditSubject, _Record] = {}

    @property
    def passed(self) -> dict[AuditSubject, int]:
        """How many audits each subject has passed that has passed any."""
        return {subject: record.passed for subject, record in self._records.items() if record.passed}

    def rate(self, subject: AuditSubject) -> float:
        """The share of the subject's calls that chance has audited now."""
        record = self._records.get(subject)
        return 1.0 if record is None else record.rate

    def choose(
        self, subjects: Sequence[AuditSubject], draw: float, *, always: bool = False
    ) -> list[AuditSubject]:
        """The subjects of one call whose rows are audited. Every result comes by here: it does little.

        Args:
            subjects: One for each expert of the call.
            draw: Uniform in [0, 1), from a secret source: whoever knows it knows when to cheat.
            always: Whether the node is one of whom everything is audited.
        """
        chosen, records = [], self._records
        for subject in subjects:
            record = records.get(subject) or self._of(subject)
            if always or draw < record.rate or record.passed_over * record.rate >= LONGEST_GAP:
                record.passed_over = 0
                chosen.append(subject)
            else:
                record.passed_over += 1
        return chosen

    def is_due(self, chosen: Sequence[AuditSubject], draw: float) -> bool:
        """Whether an audit of the chosen may not be put off: the lowest rate asks for it, or chance has passed over one of them for
        too long. What the first audits ask for beyond that rate may wait."""
        return draw < self.settings.lowest_rate or any(self.rate(subject) < 1 for subject in chosen)

    def given_up(self, subjects: Iterable[AuditSubject]) -> None:
        """No audit came of choosing these: the next call of each is chosen again."""
        for subject in subjects:
            self._of(subject).passed_over = math.ceil(LONGEST_GAP / self.settings.lowest_rate)

    def keep_version(self, node: NodeId, version: str) -> None:
        """Drops all records of a node under other versions: it says itself what it runs, and may say anything."""
        self._drop(lambda subject: subject.node == node and subject.software_version != version)

    def record(self, subject: AuditSubject, passed: bool) -> None:
        """Notes how an audit of the subject ended."""
        record = self._of(subject)
        record.passed = record.passed + 1 if passed else 0
        record.rate = self._rate(record.passed)

    def forget(self, node: NodeId) -> None:
        """Drops all records of a node: when it comes back it begins anew."""
        self._drop(lambda subject: subject.node == node)

    def restore(self, passed: Mapping[AuditSubject, int]) -> None:
        """Takes up the audits passed that were kept, in place of all records; numbers below 0 are none."""
        counts = {subject: max(0, audits) for subject, audits in passed.items()}
        self._records = {subject: _Record(audits, self._rate(audits)) for subject, audits in counts.items()}

    def _of(self, subject: AuditSubject) -> _Record:
        record = self._records.get(subject)
        if record is None:
            record = self._records[subject] = _Record(0, self._rate(0))
        return record

    def _rate(self, audits: int) -> float:
        return 1.0 if audits < self.settings.first_audits else max(self.settings.lowest_rate, 1 / audits)

    def _drop(self, ends: Callable[[AuditSubject], bool]) -> None:
        for subject in [subject for subject in self._records if ends(subject)]:
            del self._records[subject]
