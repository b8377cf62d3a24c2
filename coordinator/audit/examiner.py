"""What an opening, or its absence, says of a result.

Guarantees: whatever does not look like an honest node's opening leads to a recomputation, and nothing else here convicts; a result that
was found right by recomputation is cleared, whatever the node opened. Where the weights for it cannot be read, that is said. For one thread.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...ids import ExpertKey, NodeId, short
from ...protos.codec import TensorError
from ...protos.folkmoot.v1 import link_pb2
from ...trust.audit_check import Suspicion, check_opening
from ...trust.keys import SignatureError
from ...trust.recompute import Tolerance
from ...trust.residuals import residuals
from ..dispatch.challenge import Opened, Unopened
from .bias_watch import BiasWatch
from .canonical_weights import CanonicalExperts
from .counters import AuditCounters, AuditOutcome
from .judge import Judge
from .question import Question
from .settings import AuditSettings
from .sketch_keeper import SketchKeeper
from .threshold_store import ThresholdStore

log = logging.getLogger(__name__)

_NO_FAULT: Final = (link_pb2.Refusal.REASON_NOT_HELD, link_pb2.Refusal.REASON_OVERLOADED)


@dataclass(frozen=True, slots=True)
class Finding:
    """How an audit ended.

    Attributes:
        outcome: Passed, cleared or wrong.
        verdict: What was wrong, for people; empty when nothing was.
        unopened: Why there was no opening that counts; None when there was one.
    """

    outcome: AuditOutcome
    verdict: str = ""
    unopened: Unopened | None = None


class Examiner:
    """Examines for one coordinator."""

    def __init__(
        self,
        folder: Path,
        experts: CanonicalExperts,
        sketches: SketchKeeper,
        judge: Judge,
        counters: AuditCounters,
        settings: AuditSettings,
    ) -> None:
        """`folder` keeps thresholds."""
        self._experts = experts
        self._sketches = sketches
        self._judge = judge
        self._counters = counters
        self._thresholds = ThresholdStore(folder, experts, settings.projections, settings.suspicion_rate)
        self._biases = BiasWatch(settings.suspicion_rate, judge.tolerance)

    def examine(self, question: Question, opened: Opened) -> Finding:
        """Finds out whether the rows asked about are right, by their opening if that will do.

        Raises:
            FolkmootError: when the canonical weights cannot be read.
        """
        found, biased = self._check(question, opened)
        if found is None and not biased:
            return Finding(AuditOutcome.PASSED)
        if isinstance(found, Unopened):
            self._counters.unopened(found)
            return self.recompute(question, found)
        self._counters.suspected()
        return self.recompute(question)

    def recompute(self, question: Question, unopened: Unopened | None = None) -> Finding:
        """Finds it out by computing them.

        Raises:
            FolkmootError: when the canonical weights cannot be read.
        """
        recomputed = self._judge.recompute(question)
        verdict = self._judge.judge(question, recomputed)
        if verdict is None and (biased := self._biases.weigh(question, recomputed)):
            verdict = self._judge.judge_bias(biased)
        if verdict is None:
            return Finding(AuditOutcome.CLEARED, unopened=unopened)
        node = short(question.verified.host.node)
        log.warning("node %s: %s; evidence: %s", node, verdict.what, verdict.evidence)
        return Finding(AuditOutcome.WRONG, verdict.what, unopened)

    @property
    def tolerance(self) -> Tolerance:
        """What an honest node may differ by from a recomputation."""
        return self._judge.tolerance

    def forget(self, node: NodeId) -> None:
        """The node begins anew, if it ever comes back."""
        self._biases.forget(node)

    def _check(self, question: Question, opened: Opened) -> tuple[Suspicion | Unopened | None, bool]:
        """What is wrong with an opening, None when it looks honest; and whether many together do not."""
        if isinstance(opened, Unopened):
            return opened, False
        node = question.verified.host.node
        if opened.refused:
            log.info("node %s opens nothing: %r", short(node), opened.refused)
            return Unopened.NOT_NOW if opened.reason in _NO_FAULT else Unopened.REFUSED, False
        try:
            return self._residuals_of(question, opened)
        except SignatureError as error:
            log.warning("an opening of node %s does not count: %s", short(node), error)
            return Unopened.SIGNATURE, False
        except TensorError as error:
            log.warning("an opening of node %s does not count: %s", short(node), error)
            return Unopened.MALFORMED, False

    def _residuals_of(self, question: Question, opening: link_pb2.Opening) -> tuple[Suspicion | None, bool]:
        layer, manifest = question.verified.task.layer, self._experts.manifest
        keys = {part.expert: ExpertKey(layer, part.expert) for part in question.selection.by_expert}
        first = next(iter(keys.values()))
        opened = question.read(opening, manifest.spec_of(first), manifest)
        book = self._sketches.current
        left = residuals(
            self._experts.form(first),
            book.projections(layer),
            {expert: book.sketch(key) for expert, key in keys.items()},
            question.inputs,
            question.output,
            opened,
        )
        thresholds = self._thresholds.of(manifest.experts[first].spec, book)
        found = check_opening(left, thresholds, question.kind)
        biased = self._biases.note(question, left, book.epoch)
        return (found if isinstance(found, Suspicion) else None), biased
