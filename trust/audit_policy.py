"""Which calls are audited: the rate rule.

Guarantees: a pure state machine without clock or randomness of its own. For each subject (node, expert, software
version) every call is audited until 50 audits have passed, then a share of max(2 %, 1 / n), n counting the audits
passed; a failed audit sets n back to 0, and so does a new software version, for it is another subject. Calls that
were not audited change nothing, so no amount of good behaviour unobserved buys a lower rate. Raw and tight openings
alternate.

One number decides for all experts of a call. Outputs are summed per row, so whoever asks for one expert's part of a row has to ask
for all: with a number for each expert nearly half of all calls of 32 experts would be opened at a rate of 2 %, nearly whole, and no
expert of them would be seen more often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ..errors import UsageError
from ..ids import ExpertKey, NodeId
from .audit_statements import OpeningKind

FIRST_AUDITS: Final = 50
LOWEST_RATE: Final = 0.02


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
    """

    settings: AuditPolicySettings = field(default_factory=AuditPolicySettings)
    passed: dict[AuditSubject, int] = field(default_factory=dict)

    def rate(self, subject: AuditSubject) -> float:
        """The share of the subject's calls that is audited now."""
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
        return [subject for subject in subjects if always or draw < self.rate(subject)]

    def kind(self, subject: AuditSubject) -> OpeningKind:
        """How the subject's next opening is asked for."""
        return OpeningKind.TIGHT if self.passed.get(subject, 0) % 2 else OpeningKind.RAW

    def record(self, subject: AuditSubject, passed: bool) -> None:
        """Notes how an audit of the subject ended."""
        self.passed[subject] = self.passed.get(subject, 0) + 1 if passed else 0

    def forget(self, node: NodeId) -> None:
        """Drops all records of a node: when it comes back it begins anew."""
        for subject in [subject for subject in self.passed if subject.node == node]:
            del self.passed[subject]

    def restore(self, passed: Mapping[AuditSubject, int]) -> None:
        """Takes up records that were kept; numbers below 0 are none."""
        self.passed = {subject: max(0, audits) for subject, audits in passed.items()}
