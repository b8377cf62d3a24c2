"""The process of one node: works for all coordinators that were joined, within one contributor's limits.

Guarantees: all coordinators together get no more memory, disk, threads and rates than the settings lend; memory is divided anew
when a coordinator is joined or left, or when one ends the work or turns out to need less, but never in the middle of a drain. A coordinator that ends the work for good ends it for
itself alone; the process ends, with its error, when no coordinator is left. One that refuses the node before it ever took it in is
not remembered. `stop` leaves no task, socket or lock behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from .. import __version__
from ..errors import FolkmootError, UsageError
from ..node_states import Wish
from ..object_memory import settle
from ..open_files import allow_many_files
from ..trust.invite import Invite
from .control_server import ControlServer
from .daemon import NodeDaemon, tell_what_is_lent, within_machine
from .duty import Duty
from .engagement import Engagement
from .joined import Joined, JoinedBook, find
from .premises import Premises
from .process_status import Lent, ProcessStatus, coordinator_status
from .settings import NodeSettings
from .share import divided_anew
from .tasks import ended, in_thread
from .verbs import verbs
from .wishes import DrainEnd

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
"""How often the clock, and what coordinators turned out to need, are looked at."""


class NoCoordinatorError(UsageError):
    """There is nobody to work for."""


class NodeDrainsError(UsageError):
    """Nothing new is begun while others are to take over."""


class StaysError(UsageError):
    """A coordinator was to be left, and is not."""


class NodeProcess:
    """`start`, then `wait` for the end, or `stop`.

    Args:
        settings: What it is told; an invite in them is joined besides those that were joined before.
        name: What the contributor calls the coordinator of that invite.
        kind: What works for one coordinator.
        clock: The local time.
    """

    def __init__(
        self,
        settings: NodeSettings,
        *,
        name: str | None = None,
        kind: type[NodeDaemon] = NodeDaemon,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.settings = settings
        self._name = name
        self._kind = kind
        self._clock = clock
        self._duty = Duty(settings.hours)
        self._resting = ""
        self._engaged: list[Engagement] = []
        self._changing = asyncio.Lock()
        self._draining: asyncio.Task[dict[str, str]] | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._looking: asyncio.Task[None] | None = None
        self._premises: Premises | None = None
        self._server: ControlServer | None = None
        self._book = JoinedBook(settings.state_dir)
        self._started_unix_s = time.time()

    async def start(self) -> None:
        """Begins to work for everybody who was joined; returns before they have answered.

        Raises:
            NoCoordinatorError: when nobody was.
            InviteError, JoinError: when the settings' invite cannot be joined.
            StateError, TrustError, DiskError: when the state folder cannot be used.
        """
        if self.settings.invite:
            Invite.parse(self.settings.invite)
        self.settings = within_machine(self.settings)
        self._premises = Premises.open(self.settings)
        fresh = None
        if self.settings.invite:
            known = {one.key for one in self._book.all()}
            one = self._book.add(self.settings.invite, self._name)
            fresh = one if one.key not in known else None
        joined = self._book.all()
        if not joined:
            raise NoCoordinatorError(
                "no coordinator was joined yet", advice="join one: folkmoot node join INVITE"
            )
        tell_what_is_lent(self.settings, self._premises)
        self._rest_or_work()
        async with self._changing:
            for one in joined:
                self._engaged.append(self._engagement(one))
            await self._divide()
            for engagement in self._engaged:
                await self._begin(engagement, forget=engagement.joined == fresh)
        self._server = ControlServer(self.settings.state_dir, verbs(self))
        await self._server.start()
        self._looking = asyncio.create_task(self._look())
        self._looking.add_done_callback(self._fail_with)

    async def wait(self) -> None:
        """Returns when no coordinator is left, because they were left or drained.

        Raises:
            FolkmootError: what ended the work for the last of them.
        """
        await asyncio.wait({self._over})
        self._over.result()

    async def stop(self) -> None:
        """Leaves everybody and ends; stopping twice, or what was never started, is harmless."""
        for task in (self._looking, self._draining):
            if task is not None:
                await ended(task)
        if self._server is not None:
            await self._server.stop()
        await asyncio.gather(*(engagement.stop() for engagement in self._engaged))
        if self._premises is not None:
            await self._premises.close()
        if not self._over.done():
            self._over.cancel()

    async def join(self, invite: str, name: str | None = None) -> Joined:
        """Works for one more coordinator, or for one that is known with another invite, from now on.

        Raises:
            InviteError, JoinError: when it cannot be joined.
            NodeDrainsError: while the node drains: what it lends would be divided anew, and it would serve no more meanwhile.
            DiskError: when it cannot be remembered.
        """
        async with self._changing:
            if self._draining is not None or self._drains():
                raise NodeDrainsError(
                    "the node drains and takes on nothing new",
                    advice="join once it has ended, or take the drain back first: folkmoot node resume",
                )
            known = next(
                (other for other in self._engaged if other.joined.key == Invite.parse(invite).fingerprint),
                None,
            )
            one = self._book.add(invite, name)
            if known is not None:
                if known.joined.invite == invite and not known.over:
                    known.joined = one
                    return one
                self._engaged.remove(known)
                await known.stop()
            engagement = self._engagement(one)
            self._engaged.append(engagement)
            await self._divide()
            await self._begin(engagement, forget=known is None)
            log.info("joined %s (%s)", one.name, one.address)
            return one

    async def leave(self, name: str, *, drain: bool = False) -> Joined:
        """Works for a coordinator no more, and forgets it; with `drain`, once others there have taken over.

        Raises:
            UnknownCoordinatorError: when none is called so.
            StaysError: when the drain was taken back; the coordinator is served on.
            DiskError: when that cannot be kept.
        """
        one = find(self._book.all(), name)
        leaving = next((engaged for engaged in self._engaged if engaged.joined.key == one.key), None)
        if drain and leaving is not None and not leaving.over:
            leaving.leaving = True
            end = await leaving.daemon.drain("the contributor leaves")
            if end is DrainEnd.TAKEN_BACK:
                raise StaysError(
                    f"the drain was taken back: {one.name} is not left",
                    advice="leave it again, without a pause or resume meanwhile",
                )
        async with self._changing:
            self._book.remove(one.name)
            if leaving is not None and leaving in self._engaged:
                self._engaged.remove(leaving)
                await leaving.stop()
            log.info("left %s (%s)", one.name, one.address)
            await self._divide()
            self._end_if_alone(None)
        return one

    def pause(self, reason: str = "") -> None:
        """No work, until `resume`; what is held is kept."""
        self._take_drain_back()
        self._duty.pause(reason)
        self._rest_or_work()

    def resume(self) -> None:
        """Back to work, also outside of the hours, and instead of a drain."""
        self._take_drain_back()
        self._duty.resume(self._clock())
        self._rest_or_work()

    async def drain(self, *, at_once: bool = False) -> dict[str, str]:
        """Serves until every coordinator has put elsewhere what this node holds; how that ended, by coordinator.

        Args:
            at_once: Not to wait for that.
        """
        draining = self._draining
        if draining is None or draining.done():
            self._resting = ""
            draining = self._draining = asyncio.create_task(self._drained(0.0 if at_once else None))
        elif at_once:
            await asyncio.gather(*(engagement.daemon.drain() for engagement in self._working()))
        return await asyncio.shield(draining)

    def end(self) -> None:
        """Lets `wait` return."""
        if not self._over.done():
            self._over.set_result(None)

    async def status(self) -> ProcessStatus:
        """What there is to say now."""
        premises, settings = self._opened, self.settings
        node = premises.identity.node_id
        return ProcessStatus(
            name=settings.called(node),
            public_name=settings.shown(node),
            node_id=node,
            pid=os.getpid(),
            state_dir=str(settings.state_dir),
            software_version=__version__,
            started_unix_s=self._started_unix_s,
            resting=self._resting,
            lent=Lent(
                settings.memory_bytes,
                settings.disk_bytes,
                settings.threads,
                settings.download_bytes_per_s,
                settings.upload_bytes_per_s,
                str(settings.hours),
            ),
            stored_bytes=await in_thread(premises.store.stored_bytes),
            coordinators=tuple(coordinator_status(one) for one in self._engaged if one.started),
        )

    @property
    def _opened(self) -> Premises:
        if self._premises is None:
            raise RuntimeError("the node was not started")
        return self._premises

    def _working(self) -> list[Engagement]:
        return [engagement for engagement in self._engaged if not engagement.over]

    def _drains(self) -> bool:
        return any(engagement.daemon.wishes.wish is Wish.DRAIN for engagement in self._working())

    def _engagement(self, joined: Joined) -> Engagement:
        """Work for a coordinator, to which nothing is lent yet."""
        settings = self.settings.model_copy(
            update={"invite": joined.invite, "memory_bytes": 0, "disk_bytes": 0}
        )
        daemon = self._kind(settings, premises=self._opened)
        if self._resting:
            daemon.pause(self._resting)
        return Engagement(joined, daemon)

    async def _begin(self, engagement: Engagement, *, forget: bool) -> None:
        task = await engagement.start()
        task.add_done_callback(lambda task: self._has_ended(engagement, task, forget))

    def _has_ended(self, engagement: Engagement, task: asyncio.Task[None], forget: bool) -> None:
        if task.cancelled() or engagement not in self._engaged:
            return
        if task.exception() is not None:
            self._fail_with(task)
            return
        engagement.daemon.let_go()  # its share goes to the others
        error, joined = engagement.error, engagement.joined
        if error is not None:
            log.error("the work for %s (%s) has ended: %s", joined.name, joined.address, error)
            if forget and not engagement.daemon.welcomed:
                with contextlib.suppress(FolkmootError):
                    self._book.remove(joined.name)
        self._end_if_alone(error)

    def _fail_with(self, task: asyncio.Task[None]) -> None:
        """Lets `wait` raise what a task of this process has failed with: nobody foresaw it."""
        fault = None if task.cancelled() else task.exception()
        if fault is not None and not self._over.done():
            self._over.set_exception(fault)

    def _end_if_alone(self, error: FolkmootError | None) -> None:
        if self._working() or self._over.done():
            return
        if error is not None:
            self._over.set_exception(error)
        else:
            log.info("no coordinator is left to work for")
            self.end()

    async def _divide(self) -> None:
        """Divides memory, and disk in proportion: first those who get less, then those who get more. Not while one drains:
        it would hold less than others were told to take over."""
        engaged = self._working()
        settings = self.settings
        now = [engagement.daemon.settings.memory_bytes for engagement in engaged]
        most = [engagement.daemon.model_bytes for engagement in engaged]
        parts = divided_anew(settings.memory_bytes, now, most)
        changed = [entry for entry in zip(parts, now, engaged, strict=True) if entry[0] != entry[1]]
        for part, _, engagement in sorted(changed, key=lambda entry: entry[0] > entry[1]):
            if self._drains():
                return
            disk = settings.disk_bytes * part // settings.memory_bytes
            if len(engaged) > 1:
                log.info(
                    "%s gets %d of %d bytes of memory", engagement.joined.name, part, settings.memory_bytes
                )
            await engagement.lend(part, disk)

    def _rest_or_work(self) -> None:
        """Tells everybody when the node begins to rest, rests for another reason, or works again."""
        if self._draining is not None:
            return
        reason = self._duty.reason_to_rest(self._clock())
        if reason == self._resting:
            return
        self._resting = reason
        log.info("%s", f"resting: {reason}" if reason else "back to work")
        for engagement in self._engaged:
            if not engagement.leaving:
                self._follow(engagement)

    def _follow(self, engagement: Engagement) -> None:
        """Lets it rest or work as the node does."""
        if self._resting:
            engagement.daemon.pause(self._resting)
        else:
            engagement.daemon.resume()

    def _take_drain_back(self) -> None:
        """Of the whole node, or of one coordinator that was to be left."""
        whole = self._draining is not None
        if whole:
            self._draining, self._resting = None, ""
        for engagement in self._engaged:
            if whole or engagement.leaving:
                engagement.leaving = False
                self._follow(engagement)

    async def _drained(self, timeout_s: float | None) -> dict[str, str]:
        working = self._working()
        drains = (engagement.daemon.drain(timeout_s=timeout_s) for engagement in working)
        ends = await asyncio.gather(*drains)
        return {engagement.joined.name: end.value for engagement, end in zip(working, ends, strict=True)}

    async def _look(self) -> None:
        """Follows the clock, and what coordinators turn out to need."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._rest_or_work()
            if self._draining is None:
                async with self._changing:
                    await self._divide()


async def run(settings: NodeSettings, name: str | None = None) -> None:
    """Runs a node until it is cancelled or something ends it; then it leaves everybody in order.

    Raises:
        FolkmootError: what ended it.
    """
    allow_many_files()
    process = NodeProcess(settings, name=name)
    try:
        await process.start()
        settle()
        await process.wait()
    finally:
        await process.stop()
