"""The auditor: takes every verified result, asks about some, and acts on what comes back.

Guarantees: whoever hands it a result never waits and never sees an error; what does not fit its memory is passed over and
counted, and counts for no node's good; a challenge goes out only about a result whose signature was checked and is kept. An
opening that does not look honest, and one that does not come, lead to a recomputation, which alone convicts; a node that
is found right is at most struck for being late. A node is asked about one result at a time, at the pace of `pace.py`, which this
thread keeps to as well; which of those that wait it is asked about, and which are given up when too many do, is drawn. A result
that somebody waits for is asked about at once, all of it, and ends in a word to whoever waits unless it is wrong or nobody
does any more. Everything but `watch` happens on one thread of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch

from ...errors import FolkmootError
from ...ids import ExpertKey, NodeId, short
from ...trust.audit_policy import AuditSubject
from ..dispatch.challenge import Opened, SentChallenge, Unopened
from ..dispatch.choice import expert_work
from ..dispatch.host import Host
from ..dispatch.verified_result import Cover, VerifiedResult
from .canonical_weights import CanonicalExperts
from .chooser import Chooser
from .counters import AuditCounters, AuditOutcome
from .covering import AuditImpossibleError, Covering, Urgent, UrgentLine
from .examiner import Examiner, Finding
from .inbox import Inbox
from .judge import Judge
from .line import Line, Waiting
from .pace import Pace
from .question import Question
from .secret_draws import SecretDraws
from .settings import AuditSettings
from .sketch_keeper import SketchKeeper
from .standing_book import StandingBook

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


@dataclass(frozen=True, slots=True)
class _Answer:
    question: Question
    opened: Opened
    came_s: float
    covering: Covering | None = None


class Auditor:
    """Audits the results of one coordinator's network.

    Attributes:
        on_convicted: Called, from the auditor's thread, when a verdict was found against a node, which stands accordingly by then.
    """

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
        self._standings = standings
        self._counters = counters
        self._settings = settings
        self._examiner = Examiner(folder, experts, sketches, judge, counters, settings)
        self._draws = SecretDraws()
        self._chooser = Chooser(folder, experts, standings, settings, self._draws)
        self._inbox: Inbox[_Answer] = Inbox(settings.memory_bytes)
        self._lines: dict[Host, Line] = {}
        self._urgent: dict[Host, UrgentLine] = {}
        self.on_convicted: Callable[[NodeId], None] = lambda node: None
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
                if isinstance(item, VerifiedResult) and item.cover is not None:
                    self._cover(item, item.cover)
                elif isinstance(item, VerifiedResult):
                    self._guarded(item, partial(self._consider, item))
                elif item.covering is not None:
                    self._came_back(item)
                    self._look_into(item.covering, item.question, item.opened)
                else:
                    self._line(item.question.verified.host).pace.ended(item.came_s)
                    self._guarded(item.question.verified, partial(self._conclude, item))
            self._make_room()
            self._ask_urgently()
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
        for host in [
            host for host, urgent in self._urgent.items() if urgent.idle and not urgent.silent(now_s)
        ]:
            del self._urgent[host]

    def _pause_s(self) -> float:
        """How long to wait for an event before some node may be asked again."""
        now_s = time.monotonic()
        waits = (line.pace.wait_s(now_s) for line in self._lines.values() if line)
        return min(SAVE_EVERY_S, max(min(waits, default=SAVE_EVERY_S), self._own_pace.wait_s(now_s)))

    def _consider(self, verified: VerifiedResult) -> bool:
        """Decides whether a result is audited; whether that was all."""
        line = self._worked(verified.host)
        subjects = self._chooser.subjects(verified)
        if not subjects:
            return True
        line.add(Waiting(verified, subjects))
        return False

    def _worked(self, host: Host) -> Line:
        """A node has answered a frame: its line."""
        self._counters.looked_at()
        line = self._line(host)
        now_s = time.monotonic()
        line.pace.worked(now_s)
        self._own_pace.worked(now_s)
        self._sketches.at_work()
        return line

    def _ask(self) -> None:
        """Asks each node that may be asked now about any of its results."""
        for line in self._lines.values():
            while line and max(pace.wait_s(time.monotonic()) for pace in (line.pace, self._own_pace)) <= 0:
                drawn = line.draw()
                self._guarded(drawn.verified, partial(self._challenge, drawn, line.pace))
        waiting = sum(map(len, self._lines.values())) + sum(map(len, self._urgent.values()))
        self._counters.waiting(waiting)

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
        pace.asked(time.monotonic(), self._work(question) * host.estimate().seconds_per_byte)
        self._send(question, host.deadline_s(len(selection.rows)))
        return False

    def _send(self, question: Question, deadline_s: float, covering: Covering | None = None) -> None:
        challenge = SentChallenge(
            question.message(deadline_s),
            len(question.selection.rows),
            deadline_s,
            lambda opened: self._inbox.answer(_Answer(question, opened, time.monotonic(), covering)),
        )
        question.verified.host.ask(challenge)
        self._counters.challenged()

    def _cover(self, verified: VerifiedResult, cover: Cover) -> None:
        """Lines up all that must be asked about a result that somebody waits for."""
        self._worked(verified.host)
        selections = self._chooser.covering(verified, cover.rows)
        covering = Covering(verified, cover, len(selections))
        line = self._urgent.setdefault(verified.host, UrgentLine())
        for selection in selections:
            covering.subjects.update(selection.subjects)
            line.add(Urgent(covering, selection))

    def _ask_urgently(self) -> None:
        """Asks about what somebody waits for, whatever the pace."""
        for line in self._urgent.values():
            while (urgent := line.next(time.monotonic())) is not None:
                try:
                    self._ask_about(urgent, line)
                except Exception as error:
                    log.exception("a result that somebody waits for cannot be asked about")
                    self._give_up(urgent.covering, error)

    def _ask_about(self, urgent: Urgent, line: UrgentLine) -> None:
        covering, selection = urgent.covering, urgent.selection
        if self._moot(covering):
            return
        host = covering.verified.host
        question = Question.about(
            covering.verified, selection, self._chooser.policy.kind(selection.subjects[0])
        )
        serves = self._standings.of(host.node).serves
        if not serves or line.silent(time.monotonic()) or not self._chooser.fits(selection):
            self._look_into(covering, question, None)
            return
        rows = len(selection.rows)
        # It opens one after another, and each is given the time for those before it.
        self._send(question, host.deadline_s(rows + line.rows), covering)
        line.asked(rows)

    def _came_back(self, answer: _Answer) -> None:
        """A question that somebody waits for is out no more."""
        question, opened = answer.question, answer.opened
        is_open = not isinstance(opened, Unopened) and not opened.refused
        line = self._urgent[question.verified.host]
        line.ended(len(question.selection.rows), answer.came_s, opened=is_open)

    def _look_into(self, covering: Covering, question: Question, opened: Opened | None) -> None:
        """Acts on what came of a question that somebody waits for, or on that it cannot be asked."""
        if self._moot(covering):
            return
        try:
            finding = self._found(question, opened)
        except Exception as error:
            log.exception("a result that somebody waits for can be neither audited nor computed again")
            self._give_up(covering, error)
            return
        self._act_on(question, finding)
        if finding.outcome is AuditOutcome.WRONG:
            self._end(covering)
            return
        covering.passed = covering.passed and finding.outcome is AuditOutcome.PASSED
        covering.left -= 1
        if not covering.left:
            self._note(question.verified.host.node, covering.subjects, covering.passed)
            self._end(covering)
            covering.cover.step.passed()

    def _found(self, question: Question, opened: Opened | None) -> Finding:
        """Examines an opening, and computes the rows where it cannot be examined for whatever reason."""
        if opened is None:
            return self._examiner.recompute(question)
        try:
            return self._examiner.examine(question, opened)
        except Exception:
            log.exception("an opening that somebody waits for could not be examined; its rows are computed")
            return self._examiner.recompute(question)

    def _moot(self, covering: Covering) -> bool:
        """Whether an audit has ended, or nobody waits for it any more, which ends it."""
        if not covering.over and not covering.cover.step.wanted:
            self._counters.ended(AuditOutcome.ABANDONED)
            self._end(covering)
        return covering.over

    def _give_up(self, covering: Covering, error: Exception) -> None:
        if not covering.over:
            self._counters.ended(AuditOutcome.ABANDONED)
            self._end(covering)
            covering.cover.step.impossible(_impossible(error))

    def _end(self, covering: Covering) -> None:
        covering.over = True
        self._inbox.release(covering.verified)

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
        finding = self._examiner.examine(question, answer.opened)
        self._act_on(question, finding)
        if finding.outcome is not AuditOutcome.WRONG:
            self._note(node, question.selection.subjects, finding.outcome is AuditOutcome.PASSED)
        return True

    def _act_on(self, question: Question, finding: Finding) -> None:
        node = question.verified.host.node
        self._counters.ended(finding.outcome)
        if finding.outcome is AuditOutcome.WRONG:
            self._convict(node, finding.verdict)
        elif finding.unopened in STRIKES:
            self._standings.struck(node, STRIKES[finding.unopened])

    def _note(self, node: NodeId, subjects: Iterable[AuditSubject], passed: bool) -> None:
        """An audit is over, and nothing wrong was found."""
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


def _impossible(error: Exception) -> AuditImpossibleError:
    why = str(error) if isinstance(error, FolkmootError) else type(error).__name__
    return AuditImpossibleError(
        f"a result behind this answer can be neither audited nor computed again ({why})",
        advice="ask again; the coordinator's log has more",
    )
