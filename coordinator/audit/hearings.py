"""Hearings: where the coordinator has not the weights at hand, two unrelated nodes are asked instead.

Guarantees: a hearing that was opened ends once, on the auditor's thread, with a finding or with none; only what both sides agree on
convicts or clears anybody; where they do not, or one of them does not answer or open, nothing is decided and the log says so. Witnesses
are members, and all nodes whose owner is unknown count as one owner's. What is asked of witnesses is answered, signed, credited and
audited like everything else. No more than `AT_ONCE` hearings are held at once; `MOST_WAITING` others
wait for their turn. For one thread, but for what comes back.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch

from ...errors import TrustError, WireError
from ...ids import ExpertKey, NodeId, short
from ...protos.limits import MAX_OPENED_ROWS, opened_pairs
from ...trust.audit_statements import OpeningKind
from ...trust.residuals import OpenedExpert
from ...trust.testimony import weigh_testimony
from ..dispatch.answering import accept_answer
from ..dispatch.challenge import Opened, Unopened
from ..dispatch.choice import expert_work
from ..dispatch.host import Ending, Failure, SentFrame
from ..dispatch.network_experts import NetworkExperts
from ..dispatch.pairs import Pairs
from ..dispatch.part import Part, frame_to
from ..dispatch.plan import PlannedFrame
from ..self_host.own_host import OwnHost
from .counters import AuditCounters, AuditOutcome
from .examiner import Finding
from .hearing import Asked, Hearing, OwnerOf, summon
from .judge import Judge
from .question import Question
from .secret_draws import SecretDraws
from .selection import Selection

log = logging.getLogger(__name__)

AT_ONCE: Final = 4
MOST_WAITING: Final = 256
UNKNOWN: Final = ""
"""The owner of all nodes whose owner is not known: they may well be one person's."""

Concluded = Callable[[Finding | None], None]
"""Is told what was found; None when nothing was decided."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A witness's frame has ended."""

    asked: Asked
    frame: SentFrame
    ending: Ending


@dataclass(frozen=True, slots=True)
class Shown:
    """A witness's opening has come, or will not."""

    asked: Asked
    question: Question
    opened: Opened


class Hearings:
    """Of one coordinator."""

    def __init__(
        self,
        judge: Judge,
        may_witness: Callable[[NodeId], bool],
        put: Callable[[Answered | Shown], None],
        counters: AuditCounters,
        draws: SecretDraws,
    ) -> None:
        """Args: may_witness says who may be asked at all; put hands what comes back to `take`, on the auditor's thread."""
        self._judge = judge
        self._may_witness = may_witness
        self._put = put
        self._counters = counters
        self._draws = draws
        self._network: NetworkExperts | None = None
        self._owner_of: OwnerOf = str
        self._open: dict[Hearing, Concluded] = {}
        self._waiting: deque[tuple[Question, Concluded, Collection[NodeId]]] = deque()

    def use(self, network: NetworkExperts, owner_of: OwnerOf) -> None:
        """From now on witnesses are called through this network; without it there are no hearings. `owner_of` says whose a node is,
        its own id where nobody is known."""
        self._owner_of = lambda node: owner if (owner := owner_of(node)) != node else UNKNOWN
        self._network = network

    def open(self, question: Question, concluded: Concluded, others: Collection[NodeId] = ()) -> bool:
        """Asks two unrelated nodes about the rows in question, now or in turn; False when that cannot be, and nobody is told anything.

        Args:
            question: What is in question.
            concluded: Told how it ends.
            others: Nodes that are concerned beside the one whose result it is.
        """
        if len(self._open) < AT_ONCE:
            return self._begin(question, concluded, others)
        if len(self._waiting) >= MOST_WAITING:
            return False
        self._waiting.append((question, concluded, others))
        return True

    def _begin(self, question: Question, concluded: Concluded, others: Collection[NodeId]) -> bool:
        network = self._network
        if network is None:
            return False
        hearing, layer = Hearing(question), question.verified.task.layer
        held = network.directory.layer(layer)
        first = ExpertKey(layer, question.selection.pairs.loads[0][0])
        most = min(MAX_OPENED_ROWS, opened_pairs(network.manifest.spec_of(first).intermediate))
        holders = {
            expert: [
                host
                for at in self._draws.order(len(held.holders[expert]))
                if not isinstance(host := held.hosts[held.holders[expert][at]], OwnHost)
                and self._may_witness(host.node)
            ]
            for expert in question.selection.pairs.loads[0]
        }
        concerned = {question.verified.host.node, *others}
        if not summon(hearing, holders, self._owner_of, concerned, most):
            log.warning(
                "a result of node %s cannot be judged: the weights are not at hand, and no two unrelated nodes have them",
                short(question.verified.host.node),
            )
            return False
        frames = [(asked.host, self._frame(asked, network, layer)) for asked in hearing.asked]
        try:
            network.send(frames)
        except RuntimeError:  # the event loop has ended
            return False
        self._open[hearing] = concluded
        self._counters.heard()
        return True

    def take(self, item: Answered | Shown) -> None:
        """Goes on with what came back."""
        asked, hearing = item.asked, item.asked.hearing
        try:
            if isinstance(item, Answered):
                self._answered(asked, item.frame, item.ending)
            else:
                asked.opened = self._read(item.question, item.opened)
                hearing.failed = hearing.failed or asked.opened is None
        except Exception:
            log.exception("what a witness said cannot be looked at")
            hearing.failed = True
        if hearing not in self._open or not (hearing.failed or hearing.complete):
            return
        concluded, finding = self._open.pop(hearing), None
        try:
            finding = self._decide(hearing)
        except Exception:
            log.exception("a hearing cannot be decided")
        try:
            concluded(finding)
        finally:
            self._call_next()

    def _call_next(self) -> None:
        while self._waiting and len(self._open) < AT_ONCE:
            question, concluded, others = self._waiting.popleft()
            try:
                begun = self._begin(question, concluded, others)
            except Exception:
                log.exception("a hearing cannot be held")
                begun = False
            if not begun:
                try:
                    concluded(None)
                except Exception:
                    log.exception("what follows from a hearing that cannot be held met a fault")

    def _frame(self, asked: Asked, network: NetworkExperts, layer: int) -> SentFrame:
        selection, count = asked.hearing.question.selection, len(asked.pairs)
        pairs = selection.pairs
        hidden = asked.hearing.question.hidden.index_select(
            0, torch.from_numpy(pairs.rows[asked.pairs].astype(np.int64))
        )
        local = Pairs(
            pairs.experts[asked.pairs], np.arange(count, dtype=np.int32), np.ones(count, np.float32)
        )
        work = sum(
            expert_work(network.manifest.expert_bytes(ExpertKey(layer, expert)), rows)
            for expert, rows in zip(*local.loads, strict=True)
        )
        planned = PlannedFrame(0, local, np.arange(count), local, work)
        frame = frame_to(asked.host, layer, planned, hidden, partial(self._ended, asked))
        deadline_ms = frame.message.frame.deadline_ms
        asked.part = Part((0,), asked.host, planned, hidden, deadline_ms, time.monotonic())
        return frame

    def _ended(self, asked: Asked, frame: SentFrame, ending: Ending) -> None:
        """On the event loop."""
        frame.ended_at_s = time.monotonic()
        self._put(Answered(asked, frame, ending))

    def _answered(self, asked: Asked, frame: SentFrame, ending: Ending) -> None:
        network, hearing, part = self._network, asked.hearing, asked.part
        assert network is not None and part is not None, "hearings are opened with both"
        if isinstance(ending, Failure):
            network.counters.failed(ending.value)
            hearing.failed = True
            return
        layer = hearing.question.verified.task.layer
        accepted = accept_answer(network, layer, frame, part, ending)
        if not accepted or part.verified is None:
            hearing.failed = True
            return
        if network.watcher is not None:
            network.watcher(part.verified)
        if hearing not in self._open:
            return
        rows = np.arange(len(asked.pairs))
        question = Question.about(part.verified, Selection((), rows, part.planned.local), OpeningKind.RAW)
        asked.host.ask(
            question.challenge(
                asked.host.deadline_s(len(rows)),
                lambda opened: self._put(Shown(asked, question, opened)),
            )
        )

    def _read(self, question: Question, opened: Opened) -> list[OpenedExpert] | None:
        if isinstance(opened, Unopened) or opened.refused or self._network is None:
            return None
        manifest = self._network.manifest
        layer = question.verified.task.layer
        spec = manifest.spec_of(ExpertKey(layer, question.selection.pairs.loads[0][0]))
        try:
            return question.read(opened, spec, manifest)
        except (TrustError, WireError) as error:
            log.warning(
                "an opening of witness %s does not count: %s", short(question.verified.host.node), error
            )
            return None

    def _decide(self, hearing: Hearing) -> Finding | None:
        names = ", ".join(sorted(short(node) for node in hearing.names))
        accused = short(hearing.question.verified.host.node)
        if hearing.failed:
            log.warning(
                "nothing is decided about a result of node %s: not all of %s answered", accused, names
            )
            return None
        question = hearing.question
        found = weigh_testimony(
            question.output,
            question.selection.pairs.rows.astype(np.int64),
            question.selection.pairs.gates,
            (hearing.statement(0), hearing.statement(1)),
            self._judge.tolerance,
            float16=question.hidden.dtype == torch.float16,
        )
        if found.wrong:
            verdict = self._judge.witnessed(question, found, names)
            log.warning("node %s: %s; evidence: %s", accused, verdict.what, verdict.evidence)
            return Finding(AuditOutcome.WRONG, verdict.what)
        if found.right:
            return Finding(AuditOutcome.CLEARED)
        log.warning(
            "nothing is decided about a result of node %s: witnesses %s are apart by %.2e, and its rows off by %.2e at most",
            accused,
            names,
            found.apart,
            float(found.errors.max()),
        )
        return None
