"""The auditor: takes every verified result, asks about some, and acts on what comes back.

Guarantees: whoever hands it a result never waits and never sees an error; what does not fit its memory is passed over and counted, and
counts for no node's good; a challenge goes out only about a result whose signature was checked and is kept. An opening that does not look
honest, and one that does not come, lead to a recomputation, which alone convicts, but for two unrelated witnesses who agree where the
weights are not at hand; a node that is found right is at most struck for being late. What the lowest rate asks for, and all of a node on
probation, is asked about at once; what is asked beyond that, about one result at a time and at the pace of `pace.py`, which this thread
keeps to as well. Which of those that wait a node is asked about, and which are given up when too many do, is drawn. Results that somebody
waits for go to `urgent_audits.py`, second answers to `second_answers.py`. Everything but what begins with `watch` happens on one thread
of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import torch

from ...errors import FolkmootError, ModelError
from ...ids import ExpertKey, short
from ..dispatch.choice import expert_work
from ..dispatch.host import Host
from ..dispatch.verified_result import Cover, Rivals, VerifiedResult
from .asking import Answer, Asker, Incoming
from .canonical_weights import CanonicalExperts
from .chooser import Chooser
from .consequences import Consequences
from .counters import AuditCounters, AuditOutcome
from .covering import Covering
from .examiner import Examiner, Finding
from .hearings import Answered, Hearings, Shown
from .inbox import Inbox
from .judge import Judge
from .line import Line, Waiting
from .pace import Pace
from .question import Question
from .second_answers import SecondAnswers
from .secret_draws import SecretDraws
from .settings import AuditSettings
from .sketch_keeper import SketchKeeper
from .standing_book import StandingBook
from .unusable_results import Unusable, UnusableResults
from .urgent_audits import UrgentAudits

log = logging.getLogger(__name__)

SAVE_EVERY_S: Final = 2.0
FORGET_AFTER_S: Final = 60.0
MOST_COUNTED_S: Final = 0.1
"""Of one step: measuring thresholds takes seconds, once, and must not hold up audits for minutes."""
MOST_RIVALS: Final = 64
"""Second answers that may wait to be compared."""


class Auditor:
    """Audits the results of one coordinator's network.

    Attributes:
        consequences: What follows from audits.
        hearings: Who is asked when the weights are not at hand.
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
        self._chooser = chooser = Chooser(folder, experts, standings, settings, self._draws)
        self._inbox: Inbox[Incoming] = Inbox(settings.memory_bytes)
        self._asker = Asker(self._inbox, counters)
        self.consequences = Consequences(chooser, self._examiner, standings, counters)
        self.hearings = Hearings(
            judge, self.consequences.is_member, self._inbox.answer, counters, self._draws
        )
        self._urgent = UrgentAudits(
            chooser,
            self._examiner,
            self.consequences,
            self._asker,
            self.hearings,
            self._inbox,
            counters,
        )
        self._second_answers = SecondAnswers(
            chooser, self._examiner, self.consequences, self.hearings, self._inbox, counters
        )
        self._unusable = UnusableResults(chooser, self._examiner, self.consequences)
        self._room_for_rivals = threading.BoundedSemaphore(MOST_RIVALS)
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

    def watch_rivals(self, rivals: Rivals) -> None:
        """Takes a second answer beside the first: a `RivalsWatcher`. Any thread."""
        if self._room_for_rivals.acquire(blocking=False):
            if self._inbox.reserve(rivals.size):
                self._inbox.answer(rivals)
                return
            self._room_for_rivals.release()
        self._counters.dropped()

    def watch_unusable(self, verified: VerifiedResult) -> None:
        """Takes a result that its node signed and that nothing can be computed with: a `Watcher`. Any thread."""
        if self._inbox.reserve(verified.size):
            self._inbox.answer(Unusable(verified))
        else:
            self._counters.dropped()

    def _run(self) -> None:
        torch.set_num_threads(1)
        saved_s = time.monotonic()
        while not self._closing:
            for item in self._inbox.take(self._pause_s()):
                self._safely(partial(self._look_at, item))
            for step in (self._make_room, self._urgent.ask, self._ask):
                self._safely(step)
            if time.monotonic() - saved_s >= SAVE_EVERY_S:
                saved_s = time.monotonic()
                self._safely(self._standings.save)
                self._safely(partial(self._forget_idle, saved_s))

    def _safely(self, step: Callable[[], None]) -> None:
        """Whatever goes wrong in a step, audits go on."""
        try:
            step()
        except Exception:
            log.exception("a fault in the auditor")

    def _look_at(self, item: VerifiedResult | Incoming) -> None:
        match item:
            case VerifiedResult(cover=None):
                self._guarded(item, partial(self._consider, item), paced=False)
            case VerifiedResult(cover=Cover() as cover):
                self._worked(item.host)
                self._urgent.cover(item, cover)
            case Answer(covering=None):
                self._asker.came_back(item)
                line = self._line(item.question.verified.host)
                was_due = line.ended(item.question)
                if not was_due:
                    line.pace.ended(item.came_s)
                self._guarded(item.question.verified, partial(self._conclude, item), paced=not was_due)
            case Answer(covering=Covering() as covering):
                self._asker.came_back(item)
                self._urgent.came_back(item, covering)
            case Answered() | Shown():
                self._guarded(None, partial(self._hear, item))
            case Unusable(verified):
                self._guarded(verified, partial(self._look_into, verified))
            case Rivals():
                self._room_for_rivals.release()
                self._guarded(None, partial(self._compare, item))

    def _guarded(self, verified: VerifiedResult | None, step: partial[bool], *, paced: bool = True) -> None:
        """Does one step of an audit; whatever goes wrong ends this audit and no other.

        Counts the time that it takes, if the pace is to know: not of what is due, nor of looking at results, or much work would leave
        no time for audits.
        """
        began_s, used_s = (time.monotonic(), time.thread_time()) if paced else (0.0, 0.0)
        try:
            ended = step()
        except FolkmootError as error:
            log.error("%s cannot be audited: %s", _named(verified), error)
            self._counters.ended(AuditOutcome.ABANDONED)
            ended = True
        except Exception:
            log.exception("a fault ended the audit of %s", _named(verified))
            self._counters.ended(AuditOutcome.ABANDONED)
            ended = True
        if ended and verified is not None:
            self._inbox.release(verified)
        if paced:
            spent_s = min(time.thread_time() - used_s, MOST_COUNTED_S)
            self._own_pace.took(spent_s, began_s, time.monotonic())

    def _hear(self, item: Answered | Shown) -> bool:
        self.hearings.take(item)
        return True

    def _look_into(self, verified: VerifiedResult) -> bool:
        self._unusable.look_into(verified)
        return True

    def _compare(self, rivals: Rivals) -> bool:
        try:
            self._second_answers.compare(rivals)
        finally:
            self._inbox.free(rivals.size)
        return True

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
            given_up = max(self._lines.values(), key=lambda line: line.size).give_up()
            waiting -= given_up.verified.size
            self._inbox.release(given_up.verified)
            self._give_up(given_up)

    def _give_up(self, waiting: Waiting) -> None:
        self._chooser.policy.given_up(waiting.subjects)
        self._counters.dropped()

    def _forget_idle(self, now_s: float) -> None:
        for host, line in list(self._lines.items()):
            if line.idle and line.pace.worked_s + FORGET_AFTER_S < now_s:
                del self._lines[host]
        self._urgent.forget_idle(now_s)

    def _pause_s(self) -> float:
        """How long to wait for an event before some node may be asked again."""
        now_s = time.monotonic()
        waits = (line.pace.wait_s(now_s) for line in self._lines.values() if line.has_others)
        return min(SAVE_EVERY_S, max(min(waits, default=SAVE_EVERY_S), self._own_pace.wait_s(now_s)))

    def _consider(self, verified: VerifiedResult) -> bool:
        """Decides whether a result is audited; whether that was all."""
        line = self._worked(verified.host)
        waiting = self._chooser.choose(verified)
        if waiting is None:
            return True
        line.add(waiting)
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
        """Asks each node about its results that are due, and about others if it may be asked about these now."""
        for line in self._lines.values():
            while (due := line.draw_due()) is not None:
                self._guarded(due.verified, partial(self._challenge, due, line), paced=False)
            while (
                line.has_others
                and max(pace.wait_s(time.monotonic()) for pace in (line.pace, self._own_pace)) <= 0
            ):
                drawn = line.draw_other()
                self._guarded(drawn.verified, partial(self._challenge, drawn, line))
        waiting = sum(map(len, self._lines.values())) + len(self._urgent)
        self._counters.waiting(waiting)

    def _challenge(self, drawn: Waiting, line: Line) -> bool:
        """Asks about a result; whether that ended its audit."""
        host = drawn.verified.host
        if not self.consequences.serves(host.node):
            self._counters.ended(AuditOutcome.ABANDONED)
            return True
        selection = self._chooser.selection(drawn.verified, drawn.subjects)
        if selection is None:
            self._give_up(drawn)
            return True
        kind = self._chooser.kind()
        question = Question.about(drawn.verified, selection, kind)
        worth_s = self._work(question) * host.estimate().seconds_per_byte
        self._asker.ask(question)
        if drawn.due:
            line.asked(question)
        else:
            line.pace.asked(time.monotonic(), worth_s)
        return False

    def _work(self, question: Question) -> float:
        """What opening costs a node, in bytes of weights read: no more than the result itself had cost it."""
        layer, manifest = question.verified.task.layer, self._experts.manifest
        return sum(
            expert_work(manifest.expert_bytes(ExpertKey(layer, expert)), count)
            for expert, count in zip(*question.selection.pairs.loads, strict=True)
        )

    def _conclude(self, answer: Answer) -> bool:
        """Acts on what came of a challenge; always all."""
        question, node = answer.question, answer.question.verified.host.node
        if not self.consequences.serves(node):
            self._counters.ended(AuditOutcome.ABANDONED)
            return True
        try:
            finding = self._examiner.examine(question, answer.opened)
        except ModelError:
            if not self.hearings.open(question, partial(self._heard, question)):
                raise
            return False
        self._ended(question, finding)
        return True

    def _heard(self, question: Question, finding: Finding | None) -> None:
        """Witnesses were asked about a result in place of the weights."""
        self._inbox.release(question.verified)
        if finding is None or not self.consequences.serves(question.verified.host.node):
            self._counters.ended(AuditOutcome.ABANDONED)
        else:
            self._ended(question, finding)

    def _ended(self, question: Question, finding: Finding) -> None:
        node = question.verified.host.node
        self.consequences.ended(node, finding)
        if finding.outcome is not AuditOutcome.WRONG:
            self.consequences.note(node, question.selection.subjects, finding.good)


def _named(verified: VerifiedResult | None) -> str:
    return f"a result of node {short(verified.host.node)}" if verified is not None else "a second answer"
