"""Adversaries without a wire: as many runs as a 99th percentile needs.

Guarantees: what answers and opens is the adversary's own executor; what decides, asks, checks and recomputes are the
coordinator's own policy, question, residuals, thresholds (calibrated here, on the same model), watch for biases and recomputation.
What a run leaves out is transport, and the results that nobody audits, wherever the adversary does not care for them. A run
begins with a node that has long been trusted, so one call in fifty is audited: the best that a cheat can hope for. Every call is one
row through one expert: the least that an audit can see. All that chance decides follows from the seed, but for keys, which nothing
here depends on.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ...coordinator.audit.bias_watch import BiasWatch, CountedRows
from ...coordinator.audit.canonical_weights import CanonicalExperts
from ...coordinator.audit.question import Question
from ...coordinator.audit.selection import Selection
from ...coordinator.audit.settings import AuditSettings
from ...coordinator.audit.sketch_book import SketchBook
from ...coordinator.audit.threshold_store import ThresholdStore
from ...coordinator.dispatch.verified_result import VerifiedResult
from ...ids import ExpertKey
from ...models.prepared import PreparedModel
from ...trust.audit_check import Suspicion, check_opening
from ...trust.audit_policy import AuditPolicy, AuditSubject, kind_of
from ...trust.audit_statements import OpeningKind
from ...trust.bias import weigh_bias
from ...trust.expert_arithmetic import ExpertRows, ExpertWeights
from ...trust.false_alarms import is_far
from ...trust.keys import SignatureError
from ...trust.recompute import Tolerance, compare, recompute
from ...trust.residuals import residuals
from .kinds import Adversary, Fate
from .long_standing import TRUSTED_AUDITS
from .understudy import Understudy

TOLERANCE: Final = Tolerance()
PROMISED_CALLS: Final = 228
"""Within so many calls an adversary that always cheats is to be caught, in 99 % of runs."""
SELDOM: Final = frozenset({Adversary.ONE_ROW_IN_128, Adversary.WHEN_UNWATCHED})
"""Adversaries that do not always cheat."""
IN_MANY: Final = frozenset({Adversary.FIXED_DIRECTION})
"""Adversaries whose cheating no single audit proves."""
_NOT_REHEARSED: Final = frozenset({Adversary.SLOW_OPENING})
"""Adversaries that gain time: a rehearsal has none."""
_ROWS_COUNT: Final = frozenset({Adversary.ONE_ROW_IN_128})
"""Adversaries to whom it matters how many rows passed between audits."""
_FRAMES_COUNT: Final = frozenset({Adversary.WHEN_UNWATCHED, Adversary.STALE_OUTPUT})
"""Adversaries to whom it matters which frames passed."""


def rehearsed(adversary: Adversary) -> bool:
    """Whether there is a verdict to rehearse: not where results are rejected at sight, or are right, or where all is a matter of time."""
    return adversary.fate is Fate.VERDICT and adversary not in _NOT_REHEARSED


@dataclass(frozen=True)
class Rehearsed:
    """What many runs came to.

    Attributes:
        calls: Of each run, the calls until a verdict; None where there was none within the cap.
        audits, suspected, convicted: Audits, those that ended in suspicion or without an opening that counts, and those of them that
            ended in a verdict.
    """

    calls: tuple[int | None, ...]
    audits: int
    suspected: int
    convicted: int


class Audited(NamedTuple):
    """How one audit ends.

    Attributes:
        suspected: Whether there was reason to recompute.
        convicted: Whether that showed something.
        good: Whether it counts for the node's good otherwise.
    """

    suspected: bool = False
    convicted: bool = False
    good: bool = False


class Rehearsal:
    """The coordinator's part. Made on a running event loop, as executors are."""

    def __init__(self, model: PreparedModel, folder: Path, seed: int) -> None:
        settings = AuditSettings()
        self._model = model
        self._experts = CanonicalExperts(model)
        self._key = min(model.manifest.experts)
        self._form = self._experts.form(self._key)
        self._rate = settings.suspicion_rate
        secret = hashlib.sha256(f"rehearsal {seed}".encode()).digest()
        self._book = SketchBook(folder, self._experts, secret, epoch=0, count=settings.projections)
        store = ThresholdStore(folder, self._experts, settings.projections, settings.suspicion_rate)
        self._thresholds = store.of(model.manifest.experts[self._key].spec, self._book)
        self._biases = BiasWatch(self._rate, TOLERANCE)

    def run(self, adversary: Adversary, runs: int, cap: int, seed: int) -> Rehearsed:
        """So many runs of one adversary, each until a verdict or `cap` calls."""
        node = Understudy(self._model, adversary, self._key, seed)
        generator = np.random.default_rng([seed, *adversary.name.encode()])
        counts = np.zeros(3, np.int64)
        calls: list[int | None] = []
        with torch.inference_mode():
            if adversary in _FRAMES_COUNT:
                node.pass_frames(1)  # whoever gives its last answer again has none before its first
            for _ in range(runs):
                calls.append(self._run(node, generator, cap, counts))
        audits, suspected, convicted = counts.tolist()
        return Rehearsed(tuple(calls), audits, suspected, convicted)

    def _run(
        self, node: Understudy, generator: np.random.Generator, cap: int, counts: npt.NDArray[np.int64]
    ) -> int | None:
        policy, subject = AuditPolicy(), AuditSubject(node.host.node, self._key, node.host.software_version)
        policy.restore({subject: TRUSTED_AUDITS})
        self._biases = BiasWatch(self._rate, TOLERANCE)
        passed_over = 0
        for call in range(1, cap + 1):
            if not policy.choose([subject], float(generator.random())):
                passed_over += 1
                continue
            if node.adversary in _ROWS_COUNT:
                node.pass_rows(passed_over)
            elif node.adversary in _FRAMES_COUNT:
                node.pass_frames(passed_over)
            passed_over = 0
            audited = self.audit(node, node.call(), kind_of(float(generator.random())))
            counts += (1, audited.suspected, audited.convicted)
            if audited.convicted:
                return call
            policy.record(subject, passed=audited.good)
        return None

    def audit(self, node: Understudy, verified: VerifiedResult, kind: OpeningKind) -> Audited:
        """How the audit of one result ends."""
        subject = AuditSubject(node.host.node, self._key, node.host.software_version)
        question = Question.about(verified, Selection((subject,), np.arange(1), verified.pairs), kind)
        looked = self._looked(node, question)
        if not looked.suspected:
            return looked
        truth = recompute(self._form, self._weights, question.inputs, question.selection.by_expert)
        if compare(question.output, truth, TOLERANCE).wrong:
            return Audited(suspected=True, convicted=True, good=False)
        together = self._biases.weigh(question, truth)
        return looked._replace(convicted=bool(together) and self._biased(together))

    def _biased(self, together: Sequence[CountedRows]) -> bool:
        """Whether rows are biased together; each result is one row here."""
        results = [one.verified for one in together]
        rows, ones = np.arange(len(results)), np.ones(len(results), np.float32)
        return weigh_bias(
            self._form,
            self._weights,
            np.concatenate([result.hidden.float().numpy() for result in results]),
            np.concatenate([np.frombuffer(result.result.output.data, "<f4")[None] for result in results]),
            [ExpertRows(self._key.expert, rows, ones)],
            TOLERANCE,
        ).biased

    def _weights(self, expert: int) -> ExpertWeights:
        return self._experts.weights(ExpertKey(self._key.layer, expert))

    def _looked(self, node: Understudy, question: Question) -> Audited:
        """How an opening looks, by itself and with those before it; who is right is not known yet."""
        opening = node.open(question.message(node.deadline_s))
        if opening is None:
            return Audited(suspected=True)
        manifest = self._model.manifest
        try:
            opened = question.read(opening, manifest.spec_of(self._key), manifest)
        except SignatureError:
            return Audited(suspected=True)
        left = residuals(
            self._form,
            self._book.projections(self._key.layer),
            {self._key.expert: self._book.sketch(self._key)},
            question.inputs,
            question.output,
            opened,
        )
        biased = self._biases.note(question, left, self._book.epoch)
        found = check_opening(left, self._thresholds, question.kind)
        if not isinstance(found, Suspicion):
            return Audited(suspected=biased, good=not biased)
        return Audited(suspected=True, good=not biased and not is_far(found, left, self._thresholds))


def rehearse(
    model: PreparedModel, folder: Path, adversary: Adversary, runs: int, cap: int, seed: int
) -> Rehearsed:
    """Runs of one adversary, in an event loop of their own."""

    async def on_a_loop() -> Rehearsed:
        return Rehearsal(model, folder, seed).run(adversary, runs, cap, seed)

    return asyncio.run(on_a_loop())
