"""An honest node and the coordinator that audits it, in one: frames of rows in use, answered and opened by this process's kernels.

Guarantees: frames have up to eight experts a row, with gates that a router could have given; outputs, openings, sketches, checks, watch
for biases, recomputation and both kinds of verdict are the product's own. Nothing is signed: signatures decide nothing here.

Letters: n rows, K experts a row, H hidden size, I intermediate size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch

from ..coordinator.audit.bias_watch import BiasWatch, CountedRows
from ..coordinator.audit.canonical_weights import CanonicalExperts
from ..coordinator.audit.evidence_keeper import EvidenceKeeper
from ..coordinator.audit.honest_openings import heavy_rows
from ..coordinator.audit.judge import Judge
from ..coordinator.audit.question import Question
from ..coordinator.audit.selection import SelectionCaps, cover
from ..coordinator.audit.settings import AuditSettings
from ..coordinator.audit.sketch_book import SketchBook
from ..coordinator.audit.threshold_store import ThresholdStore
from ..coordinator.dispatch.host import Host
from ..coordinator.dispatch.pairs import Pairs
from ..coordinator.dispatch.verified_result import VerifiedResult
from ..ids import NodeId
from ..kernels.expert import Expert
from ..kernels.feed_forward import Group, feed_forward
from ..kernels.formats import DTYPES
from ..kernels.opening import open_expert, stands_in
from ..protos.codec import encode_tensor
from ..protos.folkmoot.v1 import link_pb2
from ..trust.audit_check import Suspicion, check_opening
from ..trust.audit_statements import OpeningKind
from ..trust.expert_arithmetic import ExpertRows
from ..trust.keys import Identity
from ..trust.recompute import Tolerance, compare, recompute
from ..trust.residuals import OpenedExpert, residuals
from ..trust.statements import ResultStatement, TaskStatement
from ..trust.thresholds import Thresholds
from .made_rows import ATTACKS
from .random_experts import RandomExperts

EXPERTS: Final = 8
RECOMPUTED: Final = 9
"""One audit in so many is recomputed though nothing was suspected, and weighed for a bias."""


@dataclass(frozen=True, slots=True)
class _Named:
    """All that an audit asks of a host."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Audited:
    """What came of one audit.

    Attributes:
        suspected: Whether the opening did not look honest, by the thresholds of each kernels' calibration.
        wrong: Whether a verdict was found on a row.
        weighed: How many rows were judged for a bias now, all together.
        biased: Whether a verdict was found on that.
    """

    suspected: Mapping[str, bool]
    wrong: bool = False
    weighed: int = 0
    biased: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """What came of answers to made rows.

    Attributes:
        rows: How many.
        unknown: Of how many nothing can be said.
        wrong: How many would convict.
    """

    rows: int
    unknown: int
    wrong: int


def calibrated(experts: CanonicalExperts, folder: Path, secret: bytes, kernels: str) -> Thresholds:
    """The thresholds that these kernels, which must be those of this process, or were then, have found on a model."""
    settings = AuditSettings()
    store = ThresholdStore(folder / kernels, experts, settings.projections, settings.suspicion_rate)
    return store.of(0, SketchBook(folder, experts, secret, 0, settings.projections))


class HonestNode:
    """One model's node."""

    def __init__(
        self, source: RandomExperts, folder: Path, secret: bytes, thresholds: Mapping[str, Thresholds]
    ) -> None:
        """`thresholds` are those of each kernels."""
        settings = AuditSettings()
        self._experts = CanonicalExperts(source)
        self._book = SketchBook(folder, self._experts, secret, 0, settings.projections)
        self._thresholds = thresholds
        self._judge = Judge(EvidenceKeeper(folder), self._experts, Identity.generate())
        self._watch = BiasWatch(settings.suspicion_rate, Tolerance())
        self._gathered: list[CountedRows] = []
        self._host = cast(Host, _Named(Identity.generate().node_id))
        manifest = source.manifest
        self._spec = manifest.specs[0]
        self._dtype = DTYPES[manifest.dtype]
        self._loaded = [Expert.load(self._spec, source.read_expert(key)) for key in sorted(manifest.experts)]
        self._keys = sorted(manifest.experts)

    def audit(self, rows: int, width: int, kind: OpeningKind, seed: int) -> Audited:
        """Answers rows that go through `width` experts each, and audits all of them."""
        question = self._asked(rows, width, kind, seed)
        parts = question.selection.by_expert
        layer = question.verified.task.layer
        left = residuals(
            self._experts.form(self._keys[0]),
            self._book.projections(layer),
            {part.expert: self._book.sketch(self._keys[part.expert]) for part in parts},
            question.inputs,
            question.output,
            self._opened(question),
        )
        suspected = {
            name: isinstance(check_opening(left, thresholds, kind), Suspicion)
            for name, thresholds in self._thresholds.items()
        }
        biased = self._watch.note(question, left, self._book.epoch)
        if not (any(suspected.values()) or biased or seed % RECOMPUTED == 0):
            return Audited(suspected)
        recomputed = self._judge.recompute(question)
        wrong = self._judge.judge(question, recomputed) is not None
        looks_biased = self._watch.weigh(question, recomputed)
        self._gathered.append(CountedRows(question.verified, question.selection.rows))
        gathered, count = self._gathered, sum(len(one.rows) for one in self._gathered)
        if count < Tolerance().drift_rows:
            gathered, count = [], 0
        else:
            self._gathered = []
        verdicts = [self._judge.judge_bias(rows) for rows in (looks_biased, gathered) if rows]
        return Audited(suspected, wrong, count, any(verdict is not None for verdict in verdicts))

    def made(self, attack: str) -> Made:
        """Answers rows that somebody made, all at once and one by one."""
        key, expert = self._keys[0], self._loaded[0]
        weights, form = self._experts.weights(key), self._experts.form(key)
        hidden = torch.from_numpy(ATTACKS[attack](weights)).to(self._dtype)  # [n, H]
        at_once = feed_forward([_all(expert, hidden)], hidden)
        each = torch.cat([feed_forward([_all(expert, row)], row) for row in hidden.unsqueeze(1)])
        pairs = [ExpertRows(key.expert, np.arange(len(hidden)), np.ones(len(hidden), np.float32))]
        truth = recompute(form, lambda _: weights, hidden.double().numpy(), pairs)
        found = [compare(output.numpy(), truth, Tolerance()) for output in (at_once, each)]
        return Made(
            2 * len(hidden),
            sum(one.unknown for one in found),
            sum(len(one.wrong) for one in found),
        )

    def _asked(self, rows: int, width: int, kind: OpeningKind, seed: int) -> Question:
        """A frame with its answer, all of whose rows are asked about."""
        generator = np.random.default_rng([seed, width])
        chosen = generator.permuted(np.tile(np.arange(len(self._keys)), (rows, 1)), axis=1)[:, :width]
        drawn = np.exp(generator.normal(size=chosen.shape))
        gates = (drawn / drawn.sum(axis=1, keepdims=True)).astype(np.float32)  # [n, K]
        pairs = Pairs.of(chosen.astype(np.int64), gates)
        hidden = heavy_rows(rows, self._spec.hidden, seed, self._dtype)  # [n, H]
        [selection] = cover(pairs, rows, np.arange(rows), {}, SelectionCaps(rows, rows, rows * width))
        groups = [
            Group(self._loaded[part.expert], torch.from_numpy(part.rows), torch.from_numpy(part.gates))
            for part in selection.by_expert
        ]
        output = feed_forward(groups, hidden)
        empty = bytes(32)
        task = TaskStatement(
            empty, empty, empty, seed, empty, "", 0, rows, self._spec.hidden, pairs.digest, empty, 0
        )
        result = link_pb2.Result(output=encode_tensor(output), signature=bytes(64))
        statement = ResultStatement(task.digest(), empty, 0)
        verified = VerifiedResult(self._host, task, pairs, hidden, result, statement)
        return Question.about(verified, selection, kind)

    def _opened(self, question: Question) -> list[OpenedExpert]:
        """What a node opens of all rows."""
        opened = []
        for part in question.selection.by_expert:
            expert = self._loaded[part.expert]
            wire = stands_in(expert, self._dtype) if question.kind is OpeningKind.RAW else torch.float32
            gate, up = open_expert(expert, question.hidden[torch.from_numpy(part.rows)])  # [m, I]
            opened.append(
                OpenedExpert(
                    part, None if gate is None else gate.to(wire).float().numpy(), up.to(wire).float().numpy()
                )
            )
        return opened


def _all(expert: Expert, hidden: torch.Tensor) -> Group:
    return Group(expert, torch.arange(len(hidden)), torch.ones(len(hidden)))
