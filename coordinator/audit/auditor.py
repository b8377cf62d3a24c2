"""The auditor: takes every verified result, asks about some, and acts on what comes back.

Guarantees: whoever hands it a result never waits and never sees an error; what does not fit its memory is passed over and
counted, and counts for no node's good; a challenge goes out only about a result whose signature was checked and is kept. An
opening that does not look honest, and one that does not come, lead to a recomputation, which alone convicts; a node that
is found right is at most struck for being late. A node is asked about one result at a time, at the pace of `pace.py`, which this
thread keeps to as well; which of those that wait it is asked about, and which are given up when too many do, is drawn. Everything but `watch` happens on one thread of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch

from ...errors import FolkmootError
from ...ids import ExpertKey, NodeId, short
from ...protos.codec import TensorError
from ...protos.folkmoot.v1 import link_pb2
from ...trust.audit_check import Suspicion, check_opening
from ...trust.keys import SignatureError
from ...trust.residuals import residuals
from ..dispatch.challenge import Opened, SentChallenge, Unopened
from ..dispatch.choice import expert_work
from ..dispatch.host import Host
from ..dispatch.verified_result import VerifiedResult
from .bias_watch import BiasWatch
from .canonical_weights import CanonicalExperts
from .chooser import Chooser
from .counters import AuditCounters, AuditOutcome
from .inbox import Inbox
from .judge import Judge
from .line import Line, Waiting
from .pace import Pace
from .question import Question
from .secret_draws import SecretDraws
from .settings import AuditSettings
from .sketch_keeper import SketchKeeper
from .standing_book import StandingBook
from .threshold_store import ThresholdStore

log = logging.getLogger(__name__)

SAVE_EVERY_S: Final = 2.0
FORGET_AFTER_S: Final = 60.0
MOST_COUNTED_S: Final = 0.1
"""Of one step: measuring thresholds takes seconds, once, and must not hold up audits for minutes."""
STRIKES: Final = {
    Unopened.LATE: "an opening came too late, or not at all",
    Unopened.SIGNATURE: "an opening was not signed by the node",
    Unopened.MALFORMED: "an opening was not of the form that was asked for",
    Unopened.REFUSED: "the node refused to open a result",
}
"""What a node is struck for though its result was right. What it cannot help is no fault."""
_NO_FAULT: Final = (link_pb2.Refusal.REASON_NOT_HELD, link_pb2.Refusal.REASON_OVERLOADED)


@dataclass(frozen=True, slots=True)
class _Answer:
    question: Question
    opened: Opened
    came_s: float


class Auditor:
    """Audits the results of one coordinator's network."""

    def __init__(
        self,
        folder: Path,
        experts: CanonicalExperts,
        sketches: SketchKeeper,
        judge: Judge,
        standings: StandingBook,
        counters: AuditCounters,
        settings: AuditSettings,
    ) -> None:
        """Args: folder keeps thresholds; the others are what audits work with, and where they are noted."""
        self._experts = experts
        self._sketches = sketches
        self._judge = judge
        self._standings = standings
        self._counters = counters
        self._settings = settings
        self._thresholds = ThresholdStore(folder, experts, settings.projections, settings.suspicion_rate)
        self._biases = BiasWatch(settings.suspicion_rate, judge.tolerance)
        self._draws = SecretDraws()
        self._chooser = Chooser(folder, experts, standings, settings, self._draws)
        self._inbox: Inbox[_Answer] = Inbox(settings.memory_bytes)
        self._lines: dict[Host, Line] = {}
        self._own_pace = Pace(settings.busy_share, time.monotonic())
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="folkmoot-auditor", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread after what it is doing; openings that come later are not looked at. Twice is harmless."""
        self._closing = True
        self._inbox.wake()
        if self._thread.is_alive():
            self._thread.join()
        self._standings.save()
        self._chooser.save()

    def watch(self, verified: VerifiedResult) -> None:
        """Takes a verified result: a `Watcher`. Any thread."""
        if not self._inbox.put(verified):
            self._counters.dropped()

    def _run(self) -> None:
        torch.set_num_threads(1)
        saved_s = time.monotonic()
        while not self._closing:
            for item in self._inbox.take(self._pause_s()):
                if isinstance(item, VerifiedResult):
                    self._guarded(item, partial(self._consider, item))
                else:
                    self._line(item.question.verified.host).pace.ended(item.came_s)
                    self._guarded(item.question.verified, partial(self._conclude, item))
            self._make_room()
            self._ask()
            if time.monotonic() - saved_s >= SAVE_EVERY_S:
                saved_s = time.monotonic()
                self._standings.save()
                self._forget_idle(saved_s)

    def _guarded(self, verified: VerifiedResult, step: partial[bool]) -> None:
        """Does one step of an audit, and counts the time that it takes; whatever goes wrong ends this audit and no other."""
        began_s, used_s = time.monotonic(), time.thread_time()
        try:
            ended = step()
        except FolkmootError as error:
            log.error("a result of node %s cannot be audited: %s", short(verified.host.node), error)
            self._counters.ended(AuditOutcome.ABANDONED)
            ended = True
        except Exception:
            log.exception("a fault ended the audit of a result of node %s", short(verified.host.node))
            self._counters.ended(AuditOutcome.ABANDONED)
            ended = True
        if ended:
            self._inbox.release(verified)
        spent_s = min(time.thread_time() - used_s, MOST_COUNTED_S)
        self._own_pace.took(spent_s, began_s, time.monotonic())

    def _line(self, host: Host) -> Line:
        line = self._lines.get(host)
        if line is None:
            pace = Pace(self._settings.busy_share, time.monotonic())
            line = self._lines[host] = Line(pace, self._draws)
        return line

    def _make_room(self) -> None:
        """Gives up results of the longest lines while more than half of the memory waits: what comes next needs the rest."""
        waiting = sum(line.size for line in self._lines.values())
        while waiting > self._settings.memory_bytes // 2:
            given_up = max(self._lines.values(), key=lambda line: line.size).draw().verified
            waiting -= given_up.size
            self._inbox.release(given_up)
            self._counters.dropped()

    def _forget_idle(self, now_s: float) -> None:
        for host, line in list(self._lines.items()):
            if not line and line.pace.worked_s + FORGET_AFTER_S < now_s:
                del self._lines[host]

    def _pause_s(self) -> float:
        """How long to wait for an event before some node may be asked again."""
        now_s = time.monotonic()
        waits = (line.pace.wait_s(now_s) for line in self._lines.values() if line)
        return min(SAVE_EVERY_S, max(min(waits, default=SAVE_EVERY_S), self._own_pace.wait_s(now_s)))

    def _consider(self, verified: VerifiedResult) -> bool:
        """Decides whether a result is audited; whether that was all."""
        self._counters.looked_at()
        line = self._line(verified.host)
        now_s = time.monotonic()
        line.pace.worked(now_s)
        self._own_pace.worked(now_s)
        self._sketches.at_work()
        subjects = self._chooser.subjects(verified)
        if not subjects:
            return True
        line.add(Waiting(verified, subjects))
        return False

    def _ask(self) -> None:
        """Asks each node that may be asked now about any of its results."""
        for line in self._lines.values():
            while line and max(pace.wait_s(time.monotonic()) for pace in (line.pace, self._own_pace)) <= 0:
                drawn = line.draw()
                self._guarded(drawn.verified, partial(self._challenge, drawn, line.pace))
        self._counters.waiting(sum(map(len, self._lines.values())))

    def _challenge(self, drawn: Waiting, pace: Pace) -> bool:
        """Asks about a result; whether that ended its audit."""
        host = drawn.verified.host
        if not self._standings.of(host.node).serves:
            self._counters.ended(AuditOutcome.ABANDONED)
            return True
        selection = self._chooser.selection(drawn.verified, drawn.subjects)
        if selection is None:
            return True
        kind = self._chooser.policy.kind(selection.subjects[0])
        question = Question.about(drawn.verified, selection, kind)
        rows = len(selection.rows)
        deadline_s = host.deadline_s(rows)
        challenge = SentChallenge(
            question.message(deadline_s),
            rows,
            deadline_s,
            lambda opened: self._inbox.answer(_Answer(question, opened, time.monotonic())),
        )
        pace.asked(time.monotonic(), self._work(question) * host.estimate().seconds_per_byte)
        host.ask(challenge)
        self._counters.challenged()
        return False

    def _work(self, question: Question) -> float:
        """What opening costs a node, in bytes of weights read: no more than the result itself had cost it."""
        layer, manifest = question.verified.task.layer, self._experts.manifest
        return sum(
            expert_work(manifest.expert_bytes(ExpertKey(layer, expert)), count)
            for expert, count in zip(*question.selection.pairs.loads, strict=True)
        )

    def _conclude(self, answer: _Answer) -> bool:
        """Acts on what came of a challenge; always all."""
        question, node = answer.question, answer.question.verified.host.node
        if not self._standings.of(node).serves:
            self._counters.ended(AuditOutcome.ABANDONED)
            return True
        found, biased = self._check(question, answer.opened)
        if found is None and not biased:
            self._chooser.record(question.selection, passed=True)
            self._counters.ended(AuditOutcome.PASSED)
            self._standings.audit_passed(node)
            return True
        if isinstance(found, Unopened):
            self._counters.unopened(found)
        else:
            self._counters.suspected()
        recomputed = self._judge.recompute(question)
        verdict = self._judge.judge(question, recomputed)
        if verdict is not None:
            log.warning("node %s: %s; evidence: %s", short(node), verdict.what, verdict.evidence)
            return self._convict(node, verdict.what)
        bias = None if isinstance(found, Unopened) else self._biases.weigh(question, recomputed)
        if bias is not None:
            layer = question.verified.task.layer
            return self._convict(
                node, f"its results in layer {layer} are biased by {bias:.2%} over many rows"
            )
        self._chooser.record(question.selection, passed=False)
        self._counters.ended(AuditOutcome.CLEARED)
        if isinstance(found, Unopened) and found in STRIKES:
            self._standings.struck(node, STRIKES[found])
        return True

    def _convict(self, node: NodeId, what: str) -> bool:
        self._chooser.forget(node)
        self._biases.forget(node)
        self._counters.ended(AuditOutcome.WRONG)
        self._standings.convicted(node, what)
        return True

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
