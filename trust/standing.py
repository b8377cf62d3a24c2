"""Standing: what a coordinator makes of a node's conduct.

Guarantees: a pure state machine over frozen values; time is an argument. A newcomer is on probation: it gets few
experts and all its calls are audited, until enough audits have passed. A verdict quarantines at once and for good;
late openings are strikes, which lapse, and too many of them only put a node back on probation, for lateness is no
fraud. Quarantine and ban end by the operator's word alone, and `admit` means probation again. Every change says why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from ..errors import UsageError


class Status(StrEnum):
    """Where a node stands."""

    PROBATION = "probation"
    MEMBER = "member"
    QUARANTINED = "quarantined"
    BANNED = "banned"


@dataclass(frozen=True, slots=True)
class StandingSettings:
    """The rules.

    Attributes:
        probation_audits: Audits to pass before a newcomer is a member.
        probation_experts: Experts that a node on probation is given at most.
        strikes: How many strikes within the window are too many.
        strike_window_s: After how long a strike lapses.
    """

    probation_audits: int = 50
    probation_experts: int = 4
    strikes: int = 5
    strike_window_s: float = 3600.0

    def __post_init__(self) -> None:
        if min(self.probation_audits, self.probation_experts, self.strikes) < 1 or self.strike_window_s <= 0:
            raise UsageError(
                "rules of standing must all be above 0", advice="see the configuration's defaults"
            )


@dataclass(frozen=True, slots=True)
class Standing:
    """One node's.

    Attributes:
        status: Where it stands.
        reason: Why, for the operator and the contributor to read.
        since_s: Since when.
        passed: Audits passed during this probation.
        strikes_s: When it got the strikes that have not lapsed.
        admitted_s: When the operator admitted it last: what was found against it before is forgiven; 0 for never.
    """

    status: Status
    reason: str
    since_s: float
    passed: int = 0
    strikes_s: tuple[float, ...] = ()
    admitted_s: float = 0.0

    @property
    def serves(self) -> bool:
        """Whether it may host experts at all."""
        return self.status in (Status.PROBATION, Status.MEMBER)

    @property
    def always_audited(self) -> bool:
        """Whether all of its calls are audited."""
        return self.status is Status.PROBATION

    def most_experts(self, settings: StandingSettings) -> int | None:
        """How many experts it may be given; None for as many as it has room for."""
        if not self.serves:
            return 0
        return settings.probation_experts if self.status is Status.PROBATION else None


def newcomer(now_s: float) -> Standing:
    """A node that has just enrolled."""
    return Standing(Status.PROBATION, "new here: its first calls are all audited", now_s)


def audit_passed(standing: Standing, settings: StandingSettings, now_s: float) -> Standing:
    """After an audit that the node passed."""
    if standing.status is not Status.PROBATION:
        return standing
    passed = standing.passed + 1
    if passed < settings.probation_audits:
        return replace(standing, passed=passed)
    return replace(standing, status=Status.MEMBER, reason=f"passed {passed} audits", since_s=now_s, passed=0)


def struck(
    standing: Standing, settings: StandingSettings, now_s: float, what: str, steady_s: float | None = None
) -> Standing:
    """After a late or missing opening, or another fault that is no fraud.

    Args:
        standing: The node's.
        settings: The rules.
        now_s: Seconds of the calendar.
        what: The fault, as people should read it.
        steady_s: The same by a clock that nobody sets, by which strikes lapse; None where the calendar is one.
    """
    at_s = now_s if steady_s is None else steady_s
    recent = tuple(at for at in standing.strikes_s if at_s - at < settings.strike_window_s)
    strikes = (*recent, at_s)[-settings.strikes :]
    if len(strikes) < settings.strikes or not standing.serves:
        return replace(standing, strikes_s=strikes)
    reason = f"{len(strikes)} faults within {settings.strike_window_s:g} s, the last: {what}"
    return _began(standing, Status.PROBATION, reason, now_s)


def convicted(standing: Standing, now_s: float, what: str) -> Standing:
    """After a verdict; a ban stays a ban."""
    if standing.status is Status.BANNED:
        return standing
    return _began(standing, Status.QUARANTINED, what, now_s)


def quarantined(standing: Standing, now_s: float, why: str) -> Standing:
    """At the operator's word, or for results that could not be used."""
    return convicted(standing, now_s, why)


def banned(standing: Standing, now_s: float, why: str) -> Standing:
    """At the operator's word."""
    return _began(standing, Status.BANNED, why, now_s)


def admitted(standing: Standing, now_s: float, why: str) -> Standing:
    """At the operator's word, from quarantine or a ban: probation, with nothing to its credit."""
    # A calendar that was set back meanwhile makes no verdict later than the word that forgives it.
    admitted_s = max(now_s, standing.since_s, standing.admitted_s)
    return replace(_began(standing, Status.PROBATION, why, now_s), admitted_s=admitted_s)


def _began(standing: Standing, status: Status, why: str, now_s: float) -> Standing:
    """A node in another status, with nothing to its credit and no strikes."""
    return Standing(status, why, now_s, admitted_s=standing.admitted_s)
