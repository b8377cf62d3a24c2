"""Which results are audited, and which of their rows.

Guarantees: the rate rule of `trust.audit_policy` decides, by numbers that no node can foresee; a node on probation has all of its
results audited, one that does not serve none; what somebody waits for is audited whole. How often a node has passed outlives a restart, as
it was some seconds before. For one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ...ids import ExpertKey, NodeId
from ...protos.limits import opened_pairs
from ...trust.audit_policy import AuditPolicy, AuditSubject, kind_of
from ...trust.audit_statements import OpeningKind
from ..dispatch.pairs import Int64s
from ..dispatch.verified_result import VerifiedResult
from .canonical_weights import CanonicalExperts
from .line import Waiting
from .passed_audits import PassedAudits
from .secret_draws import SecretDraws
from .selection import Selection, SelectionCaps, cover, select
from .settings import AuditSettings
from .standing_book import StandingBook

SAVE_EVERY_S: Final = 30.0


class Chooser:
    """Chooses for one coordinator.

    Attributes:
        policy: What nodes have passed.
    """

    def __init__(
        self,
        folder: Path,
        experts: CanonicalExperts,
        standings: StandingBook,
        settings: AuditSettings,
        draws: SecretDraws,
    ) -> None:
        """Takes up what was kept in the folder."""
        self.policy = AuditPolicy(settings.policy)
        self._kept = PassedAudits(folder, experts.manifest.digest)
        self._experts = experts
        self._standings = standings
        self._settings = settings
        self._draws = draws
        self._saved_s = time.monotonic()
        self._versions: dict[NodeId, str] = {}
        self._subjects: dict[NodeId, dict[int, dict[int, AuditSubject]]] = {}
        self.policy.restore(self._kept.load())

    def choose(self, verified: VerifiedResult) -> Waiting | None:
        """The result with the node's experts for whose sake it is audited; None when it is not."""
        host = verified.host
        standing = self._standings.of(host.node)
        if not standing.serves:
            return None
        version = host.software_version
        if self._versions.get(host.node) != version:
            self._versions[host.node] = version
            self.policy.keep_version(host.node, version)
            self._subjects.pop(host.node, None)
        subjects = self._subjects_of(verified)
        draw = float(self._draws.take(1)[0])
        always = standing.always_audited
        chosen = self.policy.choose(subjects, draw, always=always)
        return Waiting(verified, chosen, always or self.policy.is_due(chosen, draw)) if chosen else None

    def selection(self, verified: VerifiedResult, subjects: list[AuditSubject]) -> Selection | None:
        """The rows to ask for; None when there are none within the caps."""
        caps = self._caps(subjects[0].expert)
        by_expert = {subject.expert.expert: subject for subject in subjects}
        return select(verified.pairs, verified.task.rows, by_expert, caps, self._draws)

    def covering(self, verified: VerifiedResult, rows: Int64s) -> list[Selection]:
        """All that must be asked for these rows, one at least, to be audited with every expert that worked on them.

        A row that is over the caps alone is asked for alone.
        """
        caps = self._caps(ExpertKey(verified.task.layer, verified.pairs.loads[0][0]))
        subjects = dict(zip(verified.pairs.loads[0], self._subjects_of(verified), strict=True))
        return cover(verified.pairs, verified.task.rows, rows, subjects, caps)

    def kind(self) -> OpeningKind:
        """How the next opening is asked for, whosever it is."""
        return kind_of(float(self._draws.take(1)[0]))

    @property
    def most_rows(self) -> int:
        """How many rows one audit asks for at most."""
        return self._settings.most_rows

    def fits(self, selection: Selection) -> bool:
        """Whether one challenge may ask for all of it: not for a row that goes through too many experts."""
        manifest = self._experts.manifest
        most = opened_pairs(manifest.spec_of(selection.subjects[0].expert).intermediate)
        return len(selection.pairs) <= most

    def record(self, subjects: Iterable[AuditSubject], passed: bool) -> None:
        """Notes how an audit of these ended."""
        for subject in subjects:
            self.policy.record(subject, passed)
        if time.monotonic() >= self._saved_s + SAVE_EVERY_S:
            self.save()

    def forget(self, node: NodeId) -> None:
        """The node begins anew, if it ever comes back."""
        self.policy.forget(node)
        self._versions.pop(node, None)
        self._subjects.pop(node, None)
        self.save()

    def _subjects_of(self, verified: VerifiedResult) -> list[AuditSubject]:
        """One for each expert of a result, made once: every result comes by here."""
        host, layer = verified.host, verified.task.layer
        known = self._subjects.setdefault(host.node, {}).setdefault(layer, {})
        for expert in verified.pairs.loads[0]:
            if expert not in known:
                known[expert] = AuditSubject(host.node, ExpertKey(layer, expert), host.software_version)
        return [known[expert] for expert in verified.pairs.loads[0]]

    def _caps(self, expert: ExpertKey) -> SelectionCaps:
        settings = self._settings
        intermediate = self._experts.manifest.spec_of(expert).intermediate
        return SelectionCaps(settings.rows_per_expert, settings.most_rows, settings.most_pairs(intermediate))

    def save(self) -> None:
        """Writes down what nodes have passed."""
        self._saved_s = time.monotonic()
        self._kept.save(self.policy.passed)
