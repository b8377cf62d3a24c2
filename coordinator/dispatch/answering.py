"""What becomes of a frame's answer, whether anybody waits for it or not.

Guarantees: a part is verified only if its output is the node's own answer to exactly this part's frame; whoever is to blame for another
is blamed, and all is counted. For any thread but the event loop's.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, NamedTuple

from ...errors import FolkmootError, TrustError, WireError
from ...models.pending_checks import PendingChecks
from ...protos.folkmoot.v1 import link_pb2
from .acceptance import Expected, NotFiniteError, check, check_unread, read, reason_of
from .host import Ending, Failure, SentFrame
from .part import Part, Race
from .verified_result import Cover, Rivals, VerifiedResult

if TYPE_CHECKING:
    from .network_experts import NetworkExperts

Event = tuple[SentFrame, Ending]


class Use(NamedTuple):
    """What an answer was used for: the number of the step, and which of its rows must be audited."""

    step: int
    cover: Cover | None


def accept_answer(
    network: NetworkExperts, layer: int, frame: SentFrame, part: Part, result: link_pb2.Result
) -> bool:
    """Whether a result is the node's own answer to this frame; if so the part has it from now on."""
    return read_answer(network, frame, part, result) and check_answer(network, layer, frame, part, result)


def read_answer(network: NetworkExperts, frame: SentFrame, part: Part, result: link_pb2.Result) -> bool:
    """Whether a result can be computed with; if so the part has its output from now on. Whose it is, `check_answer` says."""
    try:
        part.output = read(result, *part.hidden.shape)
    except WireError as error:
        _reject(network, frame, part, result, error)
        if isinstance(error, NotFiniteError):
            _show_unusable(network, frame, part, result)
        return False
    return True


def check_answer(
    network: NetworkExperts, layer: int, frame: SentFrame, part: Part, result: link_pb2.Result
) -> bool:
    """Whether a result that was read is the node's own answer to this frame; if so the part says so from now on."""
    assert part.output is not None, "only what was read is checked"
    task = part.task(network.coordinator_key, network.manifest, layer, frame.sequence)
    try:
        statement = check(result, part.output, Expected(task, part.host.key))
    except TrustError as error:
        part.output = None
        _reject(network, frame, part, result, error)
        return False
    network.counters.verified()
    part.host.verified(frame)
    if network.hedging.enabled:
        network.hedging.took(part.host, frame.work, frame.ended_at_s - part.sent_s)
    part.verified = VerifiedResult(part.host, task, part.planned.local, part.hidden, result, statement)
    return True


def check_aside(
    network: NetworkExperts,
    layer: int,
    frame: SentFrame,
    part: Part,
    result: link_pb2.Result,
    use: Use,
    unchecked: PendingChecks,
) -> None:
    """Has an answer that is used already checked while its step goes on."""

    def check_now() -> None:
        right = False
        try:
            right = check_answer(network, layer, frame, part, result)
            if right:
                hand_on(network, part, use)
        finally:
            unchecked.end(right=right)

    unchecked.begin()
    network.aside.leave(check_now)


def hand_on(network: NetworkExperts, part: Part, use: Use) -> None:
    """Hands a verified answer that is used to whoever watches."""
    if network.watcher is not None and part.verified is not None:
        part.verified.step, part.verified.cover = use
        network.watcher(part.verified)


def _reject(
    network: NetworkExperts, frame: SentFrame, part: Part, result: link_pb2.Result, error: FolkmootError
) -> None:
    reason = reason_of(error)
    network.counters.rejected(reason, signed=bool(result.signature))
    part.host.rejected(frame, error, reason)


def _show_unusable(network: NetworkExperts, frame: SentFrame, part: Part, result: link_pb2.Result) -> None:
    """Hands on a result for whose numbers its node can be held to account, if it signed them."""
    if network.unusable_watcher is None:
        return
    task = part.task(network.coordinator_key, network.manifest, frame.message.frame.layer, frame.sequence)
    try:
        statement = check_unread(result, Expected(task, part.host.key))
    except TrustError:
        return
    network.unusable_watcher(
        VerifiedResult(part.host, task, part.planned.local, part.hidden, result, statement)
    )


class LateAnswers:
    """Answers that lost their race, some of which are still out when their call goes on."""

    def __init__(
        self,
        network: NetworkExperts,
        layer: int,
        inbox: queue.SimpleQueue[Event | None],
        lost: dict[SentFrame, Part],
        late: list[tuple[SentFrame, Part, Ending]],
    ) -> None:
        """Args: inbox is where those that are out will come; lost are they; late are those that came already."""
        self._network = network
        self._layer = layer
        self._inbox = inbox
        self._lost = lost
        self._late = late

    def take(self) -> None:
        """Looks at all that has come. For one thread."""
        # Emptied in place, for the call has this list too: what is looked at is held by nobody.
        while self._late:
            self._ended(*self._late.pop(0))
        while True:
            try:
                event = self._inbox.get_nowait()
            except queue.Empty:
                return
            if event is not None and (lost := self._lost.pop(event[0], None)) is not None:
                self._ended(event[0], lost, event[1])

    def _ended(self, frame: SentFrame, part: Part, ending: Ending) -> None:
        network, race = self._network, part.race
        if isinstance(ending, Failure):
            network.counters.failed(ending.value)
        elif accept_answer(network, self._layer, frame, part, ending):
            assert race is not None, "only what was raced is lost"
            race.answered(part)
            if network.watcher is not None and part.verified is not None:
                network.watcher(part.verified)
            self._compare(race)
            return
        if race is not None:
            race.failed(part)

    def _compare(self, race: Race) -> None:
        """Hands both answers on, once they are there."""
        sides = [(part.verified, part.planned.rows) for part in race.parts if part.verified is not None]
        if race.complete and self._network.rivals_watcher is not None:
            self._network.counters.hedge_compared()
            first, *seconds = sides
            self._network.rivals_watcher(Rivals(first, tuple(seconds)))
