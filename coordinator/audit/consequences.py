"""What follows from an audit that has ended: for the node's standing, for how often it is audited, and for whoever goes back.

Guarantees: a node that was found wrong stands accordingly before anybody hears of it; one that was found right is at most struck
for not having opened, or not what it had computed. For one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from ...ids import NodeId, short
from ...trust.audit_policy import AuditSubject
from ...trust.standing import Status
from ..dispatch.challenge import Unopened
from .chooser import Chooser
from .counters import AuditCounters, AuditOutcome
from .examiner import Examiner, Finding
from .standing_book import StandingBook

log = logging.getLogger(__name__)

STRIKES: Final[dict[Unopened | None, str]] = {
    Unopened.LATE: "an opening came too late, or not at all",
    Unopened.SIGNATURE: "an opening was not signed by the node",
    Unopened.MALFORMED: "an opening was not of the form that was asked for",
    Unopened.REFUSED: "the node refused to open a result",
}
"""What a node is struck for that opened nothing, though its result was right. What it cannot help is no fault."""


class Consequences:
    """Of one coordinator's audits.

    Attributes:
        on_convicted: Called when a verdict was found against a node, which stands accordingly by then.
    """

    def __init__(
        self, chooser: Chooser, examiner: Examiner, standings: StandingBook, counters: AuditCounters
    ) -> None:
        self._chooser = chooser
        self._examiner = examiner
        self._standings = standings
        self._counters = counters
        self.on_convicted: Callable[[NodeId], None] = lambda node: None

    def serves(self, node: NodeId) -> bool:
        """Whether a node's results are used at all; if not, nothing of it need be audited."""
        return self._standings.of(node).serves

    def is_member(self, node: NodeId) -> bool:
        """Whether a node has passed its probation, and nothing was found against it since."""
        return self._standings.of(node).status is Status.MEMBER

    def ended(self, node: NodeId, finding: Finding) -> None:
        """An audit of a node's result has ended."""
        if finding.outcome is AuditOutcome.WRONG:
            self._convict(node, finding.verdict)
        elif strike := finding.strike or STRIKES.get(finding.unopened, ""):
            self._standings.struck(node, strike)
        # Whoever sees it counted may rely on what has followed.
        self._counters.ended(finding.outcome)

    def note(self, node: NodeId, subjects: Iterable[AuditSubject], passed: bool) -> None:
        """Nothing wrong was found with these."""
        self._chooser.record(subjects, passed)
        if passed:
            self._standings.audit_passed(node)

    def _convict(self, node: NodeId, what: str) -> None:
        self._chooser.forget(node)
        self._examiner.forget(node)
        self._standings.convicted(node, what)
        # Only now: whoever goes back must not take results of this node again.
        try:
            self.on_convicted(node)
        except Exception:
            log.exception("what follows from the verdict against node %s met a fault", short(node))
