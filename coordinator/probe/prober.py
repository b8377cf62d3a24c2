"""The prober: tries what a node has new before it gets traffic, and takes from it how fast the node is.

Guarantees: a node is asked one probe at a time, of a bounded number of rows and experts; what cannot be tried because the
coordinator cannot read its own weights is let through with the reason said, and so is it when the prober itself meets a fault:
it is worth much, but not the network. A node that does not answer is asked again, less and less often, as long as its link lives.
Reading and arithmetic happen on one thread of its own; all else belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import ceil
from typing import ParamSpec, Protocol, TypeVar

import numpy as np

from ...errors import FolkmootError, ModelError
from ...ids import ExpertKey, NodeId, short
from ...models.manifest import Manifest
from ...node_states import NodeState, Wish
from ...protos.codec import encode_tensor
from ...protos.folkmoot.v1 import link_pb2
from ..dispatch.choice import expert_work
from ..dispatch.counters import DispatchCounters
from ..dispatch.host import Ending, Failure, SentFrame
from ..dispatch.part import Part
from ..dispatch.plan import PlannedFrame
from ..hub.link import Link
from ..hub.roster import Member
from .checking import Asked, Checker, Speed, WrongAnswerError
from .draw import draw
from .memory import ProbeMemory
from .settings import ProbeSettings
from .trial import Trial, TrialFrame, Trials, frames_of

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Before a node that did not answer is asked again; each time twice as long."""
MOST_FAILURES = 3
"""After so many in a row others are given what the node does not serve."""
CROWD = 8
"""When so many nodes are being probed, each is asked about one expert only: none waits long for the others' answers."""
SAVE_AFTER_S = 2.0
TELLING_BYTES = 32 << 20
"""Of weights, worked through in a probe: less says more of the way to the node than of the node."""


class Probed(Protocol):
    """Whoever acts on what probes find. Event loop only."""

    def proved(self, link: Link, keys: frozenset[ExpertKey], speed: Speed | None) -> None:
        """What was asked of these was right, or could not be asked; the speed if it says something of the node.

        The link may be the node's no more: then none of it counts."""
        ...

    def stalled(self, link: Link) -> None:
        """Its node has been asked several times, and does not answer."""
        ...

    def refuted(self, link: Link, error: FolkmootError) -> None:
        """An answer was wrong."""
        ...


class Prober:
    """The probes of one coordinator's network."""

    def __init__(
        self,
        manifest: Manifest,
        trials: Trials,
        checker: Checker,
        counters: DispatchCounters,
        settings: ProbeSettings,
        memory: ProbeMemory | None = None,
    ) -> None:
        """`memory` keeps over a restart what nodes were right about; None forgets it."""
        self._manifest = manifest
        self._trials = trials
        self._checker = checker
        self._counters = counters
        self._settings = settings
        self._memory = memory
        self._chance = random.SystemRandom()
        self._thread = ThreadPoolExecutor(1, "folkmoot-prober")
        self._tasks: dict[Link, asyncio.Task[None]] = {}
        self._complete: dict[Link, asyncio.Event] = {}
        self._saving: asyncio.TimerHandle | None = None
        self._stopped = False

    async def stop(self) -> None:
        """Ends all probes, for good; what nodes were right about is kept. Calling it twice is harmless."""
        if self._stopped:
            return
        self._stopped = True
        if self._saving is not None:
            self._saving.cancel()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._memory is not None:
            await self._in_thread(self._memory.save)
        await asyncio.to_thread(self._thread.shutdown)

    def recall(self, node: NodeId) -> frozenset[ExpertKey]:
        """What a node was right about in an earlier life of the coordinator."""
        return self._memory.of(node) if self._memory is not None else frozenset()

    def look(self, member: Member, probed: Probed) -> None:
        """Probes a member if there is anything to probe, and probing has not been stopped."""
        link = member.link
        if self._stopped or link is None or not _trying(member, link):
            return
        if link not in self._tasks:
            self._complete[link] = asyncio.Event()
            self._tasks[link] = asyncio.create_task(self._follow(member, link, probed))
        if member.state is not NodeState.DOWNLOADING:
            self._complete[link].set()

    async def _follow(self, member: Member, link: Link, probed: Probed) -> None:
        """Probes until nothing is left to probe."""
        try:
            await self._probe_all(member, link, probed)
        except Exception:
            log.exception("node %s cannot be probed; what it has serves", short(member.node))
            probed.proved(link, _trying(member, link), None)
        finally:
            del self._tasks[link], self._complete[link]

    async def _probe_all(self, member: Member, link: Link, probed: Probed) -> None:
        loop, pause_s, failed = asyncio.get_running_loop(), FIRST_PAUSE_S, 0
        while trying := _trying(member, link):
            began_s = loop.time()
            trouble = await self._probe(member, link, trying, probed)
            if trouble:
                member.trouble = f"{trouble}; it is asked again in {pause_s:g} s"
                member.settle()
                failed += 1
                if failed == MOST_FAILURES:
                    probed.stalled(link)
                await _wait(pause_s, link.closed)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            pause_s, failed = FIRST_PAUSE_S, 0
            if member.state is NodeState.DOWNLOADING:
                complete = self._complete[link]
                complete.clear()
                took_s = loop.time() - began_s
                await _wait(took_s * (1 / self._settings.busy_share - 1), complete, link.closed)
        if failed and member.wish is not Wish.PAUSE:
            # Nothing is left to ask it about, so no answer will show that it can be counted on again.
            probed.proved(link, frozenset(), None)

    async def _probe(self, member: Member, link: Link, trying: frozenset[ExpertKey], probed: Probed) -> str:
        """Asks about some of what is to be tried; why nothing came of it, or nothing."""
        most = 1 if len(self._tasks) >= CROWD else self._settings.experts
        try:
            trials = await self._in_thread(self._make, trying, member.proven, most)
        except ModelError as error:
            if not _is_present(member, link):
                return ""
            level = logging.WARNING if not member.note else logging.DEBUG
            log.log(level, "node %s is not probed: %s", short(member.node), error)
            member.note = "not probed, because the coordinator cannot read its own weights"
            probed.proved(link, trying, None)
            return ""
        if link.closed.is_set():
            return ""
        frames = frames_of(trials)
        answers = await asyncio.gather(*(self._ask(link, frame) for frame in frames))
        failures = {failure.value for answer in answers if (failure := answer[2]) is not None}
        if link.closed.is_set():
            return ""
        if failures:
            return f"it does not answer what it is tried with ({', '.join(sorted(failures))})"
        asked = [
            Asked(frame, part, sent, result)
            for frame, (part, sent, _, result) in zip(frames, answers, strict=True)
        ]
        try:
            speed = await self._in_thread(self._checker.check, asked)
        except WrongAnswerError as error:
            self._forget(member)
            probed.refuted(link, error)
            return ""
        if speed is None:
            self._forget(member)
            # Whoever was told of it cuts the link, which this thread may be ahead of.
            await link.closed.wait()
            return ""
        log.info(
            "node %s (%s) answered %d rows of %d experts right, with %.0f rows a second",
            short(member.node),
            member.name,
            speed.rows,
            len(trials),
            speed.rows_per_second,
        )
        self._remember(member.node, trying)
        link.pace.seeded(1 / speed.bytes_per_second)
        if _is_present(member, link):
            member.note = ""
        probed.proved(link, trying, speed if speed.work >= TELLING_BYTES else None)
        return ""

    def _make(self, trying: frozenset[ExpertKey], proven: frozenset[ExpertKey], most: int) -> list[Trial]:
        keys = draw(trying, proven, self._trials.known, most, self._chance)
        return [self._trials.of(key) for key in keys]

    async def _ask(
        self, link: Link, frame: TrialFrame
    ) -> tuple[Part, SentFrame, Failure | None, link_pb2.Result]:
        """Sends a frame like any other; what came of it."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Ending] = loop.create_future()

        def on_end(sent: SentFrame, ending: Ending) -> None:
            if not ended.done():
                ended.set_result(ending)

        rows, deadline_s = len(frame.hidden), link.deadline_s(len(frame.hidden))
        work = sum(
            expert_work(self._manifest.expert_bytes(trial.key), len(trial.hidden)) for trial in frame.trials
        )
        message = link_pb2.CoordinatorMessage()
        message.frame.CopyFrom(frame.pairs.message)
        message.frame.layer = frame.layer
        message.frame.hidden.CopyFrom(encode_tensor(frame.hidden))
        message.frame.deadline_ms = ceil(deadline_s * 1000)
        sent = SentFrame(message, rows, work, deadline_s, on_end)
        planned = PlannedFrame(0, frame.pairs, np.arange(rows), frame.pairs, work)
        part = Part((0,), link, planned, frame.hidden, message.frame.deadline_ms, loop.time())
        link.reserve(sent)
        self._counters.sent(1, rows)
        link.send(sent)
        ending = await ended
        if isinstance(ending, Failure):
            self._counters.failed(ending.value)
            return part, sent, ending, link_pb2.Result()
        return part, sent, None, ending

    def _remember(self, node: NodeId, keys: frozenset[ExpertKey]) -> None:
        if self._memory is None or self._stopped:
            return
        self._thread.submit(self._memory.add, node, keys)
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(SAVE_AFTER_S, self._save)

    def _forget(self, member: Member) -> None:
        member.proven = frozenset()
        if self._memory is not None and not self._stopped:
            self._thread.submit(self._memory.forget, member.node)

    def _save(self) -> None:
        self._saving = None
        if self._memory is not None and not self._stopped:
            self._thread.submit(self._memory.save)

    async def _in_thread(self, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        call = partial(function, *arguments, **keywords)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _trying(member: Member, link: Link) -> frozenset[ExpertKey]:
    """What of a member is to be probed on this link now; a node that pauses is left alone."""
    if not _is_present(member, link) or member.wish is Wish.PAUSE:
        return frozenset()
    return member.unproven


def _is_present(member: Member, link: Link) -> bool:
    """Whether this is the link over which the member is there now."""
    return member.link is link and not link.closed.is_set()


async def _wait(limit_s: float, *events: asyncio.Event) -> None:
    """Returns when one of the events is set or the time is over."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
