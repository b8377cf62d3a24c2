"""What an opening, or its absence, says of a result.

Guarantees: whatever does not look like an honest node's opening leads to a recomputation, and nothing else here convicts; a result that
was found right by recomputation is cleared, whatever the node opened. A node cannot tell by what follows whether an opening was suspected
and cleared, or passed: both count for its good; but one that is far from right is a fault of the node's. Where more are suspected than by
chance, somebody may be learning the projections, and they are made anew. Where the weights for a recomputation cannot be read, that is said.
For one thread.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ...ids import ExpertKey, NodeId, short
from ...protos.codec import TensorError
from ...protos.folkmoot.v1 import link_pb2
from ...trust.audit_check import Suspicion, check_opening
from ...trust.audit_statements import OpeningKind
from ...trust.false_alarms import is_far
from ...trust.keys import SignatureError
from ...trust.recompute import Recomputed, Tolerance
from ...trust.residuals import residuals
from ..dispatch.challenge import Opened, Unopened
from .bias_watch import BiasWatch
from .canonical_weights import CanonicalExperts
from .counters import AuditCounters, AuditOutcome
from .judge import Judge, Verdict
from .probing_watch import ProbingWatch
from .question import Question
from .settings import AuditSettings
from .sketch_keeper import SketchKeeper
from .threshold_store import ThresholdStore

log = logging.getLogger(__name__)

FAR_OFF: Final = "an opening was far from what the node had computed, though its result was right"
_NO_FAULT: Final = (link_pb2.Refusal.REASON_NOT_HELD, link_pb2.Refusal.REASON_OVERLOADED)


@dataclass(frozen=True, slots=True)
class Finding:
    """How an audit ended.

    Attributes:
        outcome: Passed, cleared or wrong.
        verdict: What was wrong, for people; empty when nothing was.
        unopened: Why there was no opening that counts; None when there was one.
        strike: What the node is struck for though the result was right; empty for nothing.
        good: Whether it counts for the node's good.
    """

    outcome: AuditOutcome
    verdict: str = ""
    unopened: Unopened | None = None
    strike: str = ""
    good: bool = False


@dataclass(frozen=True, slots=True)
class _Looked:
    """How an opening looks by itself, and with others."""

    suspected: bool
    far: bool
    biased: bool


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
        self._probing = ProbingWatch(settings.suspicion_rate)

    def examine(self, question: Question, opened: Opened) -> Finding:
        """Finds out whether the rows asked about are right, by their opening if that will do.

        Raises:
            FolkmootError: when the canonical weights cannot be read.
        """
        looked = self._check(question, opened)
        if isinstance(looked, Unopened):
            self._counters.unopened(looked)
            return self.recompute(question, looked)
        if not looked.suspected and not looked.biased:
            return Finding(AuditOutcome.PASSED, good=True)
        self._counters.suspected()
        recomputed = self._judge.recompute(question)
        finding = self._weigh(question, recomputed, None)
        if finding.outcome is AuditOutcome.WRONG:
            return finding
        strike = self._fault(question, recomputed, looked) if looked.suspected else ""
        return replace(finding, strike=strike, good=not strike and not looked.biased)

    def recompute(self, question: Question, unopened: Unopened | None = None) -> Finding:
        """Finds it out by computing them.

        Raises:
            FolkmootError: when the canonical weights cannot be read.
        """
        return self._weigh(question, self._judge.recompute(question), unopened)

    def recompute_alone(self, question: Question) -> Finding:
        """The same, and these rows say nothing of the node's others.

        Raises:
            FolkmootError: when the canonical weights cannot be read.
        """
        return self._found(question, self._judge.judge(question, self._judge.recompute(question)), None)

    def _weigh(self, question: Question, recomputed: Recomputed, unopened: Unopened | None) -> Finding:
        verdict = self._judge.judge(question, recomputed)
        if verdict is None and (biased := self._biases.weigh(question, recomputed)):
            verdict = self._judge.judge_bias(biased)
        return self._found(question, verdict, unopened)

    def _found(self, question: Question, verdict: Verdict | None, unopened: Unopened | None) -> Finding:
        if verdict is None:
            return Finding(AuditOutcome.CLEARED, unopened=unopened)
        node = short(question.verified.host.node)
        log.warning("node %s: %s; evidence: %s", node, verdict.what, verdict.evidence)
        return Finding(AuditOutcome.WRONG, verdict.what, unopened)

    def _fault(self, question: Question, recomputed: Recomputed, looked: _Looked) -> str:
        """What a node is to be struck for whose opening was suspected though its result was right; empty for nothing."""
        if float(recomputed.leeway.max()) > self.tolerance.row:
            return ""  # a row like this may look like anything when it is opened honestly
        node, layer = question.verified.host.node, question.verified.task.layer
        if question.kind is OpeningKind.TIGHT and not looked.far:
            return ""  # float32 sums of another kind of machine may all be beyond a tight limit
        by_node, by_all = self._probing.for_nothing(node, layer)
        if by_node or by_all:
            who = f"of node {short(node)}" if by_node else "of all nodes together"
            log.warning("openings %s in layer %d look wrong more often than by chance", who, layer)
            self._sketches.renew(self._sketches.current)
        # An honest node whose kernels are not this machine's may be suspected as often: that strikes nobody.
        return FAR_OFF if looked.far else ""

    @property
    def tolerance(self) -> Tolerance:
        """What an honest node may differ by from a recomputation."""
        return self._judge.tolerance

    def forget(self, node: NodeId) -> None:
        """The node begins anew, if it ever comes back."""
        self._biases.forget(node)
        self._probing.forget(node)

    def _check(self, question: Question, opened: Opened) -> _Looked | Unopened:
        """How an opening looks, or why it does not count."""
        if isinstance(opened, Unopened):
            return opened
        node = question.verified.host.node
        if opened.refused:
            log.info("node %s opens nothing: %r", short(node), opened.refused)
            return Unopened.NOT_NOW if opened.reason in _NO_FAULT else Unopened.REFUSED
        try:
            return self._residuals_of(question, opened)
        except SignatureError as error:
            log.warning("an opening of node %s does not count: %s", short(node), error)
            return Unopened.SIGNATURE
        except TensorError as error:
            log.warning("an opening of node %s does not count: %s", short(node), error)
            return Unopened.MALFORMED

    def _residuals_of(self, question: Question, opening: link_pb2.Opening) -> _Looked:
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
        self._probing.looked_at(question.verified.host.node, layer, book.epoch)
        if not isinstance(found, Suspicion):
            return _Looked(suspected=False, far=False, biased=biased)
        return _Looked(suspected=True, far=is_far(found, left, thresholds), biased=biased)
