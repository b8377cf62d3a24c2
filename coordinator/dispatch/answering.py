"""What becomes of a frame's answer, whether anybody waits for it or not.

Guarantees: a part has an output only if it is the node's own answer to exactly this part's frame; whoever is to blame for another
is blamed, and all is counted. For any thread but the event loop's.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

from ...errors import TrustError, WireError
from ...protos.folkmoot.v1 import link_pb2
from .acceptance import Expected, accept, reason_of
from .host import Ending, Failure, SentFrame
from .part import Part, Race
from .verified_result import Rivals, VerifiedResult

if TYPE_CHECKING:
    from .network_experts import NetworkExperts

Event = tuple[SentFrame, Ending]


def accept_answer(
    network: NetworkExperts, layer: int, frame: SentFrame, part: Part, result: link_pb2.Result
) -> bool:
    """Whether a result is the node's own answer to this frame; if so the part has it from now on."""
    task = part.task(network.coordinator_key, network.manifest, layer, frame.sequence)
    try:
        accepted = accept(result, Expected(task, part.host.key))
    except (WireError, TrustError) as error:
        reason = reason_of(error)
        network.counters.rejected(reason, signed=bool(result.signature))
        part.host.rejected(frame, error, reason)
        return False
    network.counters.verified()
    part.host.verified(frame)
    if network.hedging.enabled:
        network.hedging.took(part.host, frame.work, frame.ended_at_s - part.sent_s)
    part.output = accepted.output
    part.verified = VerifiedResult(
        part.host, task, part.planned.local, part.hidden, result, accepted.statement
    )
    return True


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
