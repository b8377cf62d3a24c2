"""A frame of a layer call that is out, and the race between two answers to the same rows. Nothing here waits or sends.

Guarantees: a race is won by whichever side has all of its answers first, and never by both; its pairs have to be planned again
only once both sides have failed; a side that cannot win any more is not waited for. When all of a race have ended its parts know
of it no more, so what they hold is freed at once.

Letters: R rows of the frame, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf

import torch

from ...kernels.feed_forward import Group
from ...models.manifest import Manifest
from ...protos.codec import encode_tensor, raw_bytes, wire_dtype
from ...protos.folkmoot.v1 import link_pb2
from ...trust.statements import TaskStatement, tensor_digest
from ..self_host.own_host import OwnHost
from .host import Ending, Host, SentFrame
from .plan import PlannedFrame
from .verified_result import VerifiedResult


@dataclass(slots=True, eq=False)
class Part:
    """A frame of a call: where it went and what was in it.

    Attributes:
        order: Its place in the sum; of one that stands in for another, that one's place and then its own number.
        host: Whom it was sent to.
        planned: Its pairs and rows.
        hidden: [R, H] what was sent; nobody else writes to it.
        deadline_ms: As the wire states it.
        sent_s: When it was handed to its link.
        hedge_at_s: When another replica is asked as well; infinite when none is, or has been.
        race: With whose answer its own competes; None when with nobody's.
        routing, input: Their digests; empty until `state` is called.
        output, verified: Its answer, once it was read, and once it is known to be its node's.
    """

    order: tuple[int, ...]
    host: Host
    planned: PlannedFrame
    hidden: torch.Tensor
    deadline_ms: int
    sent_s: float
    hedge_at_s: float = inf
    race: Race | None = None
    routing: bytes = b""
    input: bytes = b""
    output: torch.Tensor | None = None
    verified: VerifiedResult | None = None

    def state(self) -> None:
        """Makes the digests that the answer will be checked against."""
        if not self.input:
            self.routing = self.planned.local.digest
            self.input = tensor_digest(
                wire_dtype(self.hidden.dtype), self.hidden.shape, raw_bytes(self.hidden)
            )

    def task(self, coordinator: bytes, manifest: Manifest, layer: int, sequence: int) -> TaskStatement:
        """What its answer must be signed for."""
        self.state()
        rows, hidden = self.hidden.shape
        return TaskStatement(
            coordinator=coordinator,
            node=self.host.key.raw,
            session=self.host.session,
            sequence=sequence,
            manifest=manifest.digest,
            profile=manifest.profile,
            layer=layer,
            rows=rows,
            hidden=hidden,
            routing=self.routing,
            input=self.input,
            deadline_ms=self.deadline_ms,
        )


@dataclass(frozen=True, slots=True)
class OwnPart:
    """What of this call the coordinator computes itself: its place in the sum, who computes it, and what is in it."""

    order: tuple[int, ...]
    host: OwnHost
    planned: PlannedFrame
    groups: list[Group]


def frame_to(
    host: Host,
    layer: int,
    planned: PlannedFrame,
    hidden: torch.Tensor,
    on_end: Callable[[SentFrame, Ending], None],
) -> SentFrame:
    """The frame that asks a host for what was planned, counted as its work to come; `hidden` [R, H] is its input."""
    message = link_pb2.CoordinatorMessage()
    wire = message.frame
    wire.CopyFrom(planned.local.message)
    wire.layer = layer
    wire.hidden.CopyFrom(encode_tensor(hidden))
    deadline_s = host.deadline_s(len(planned.rows))
    wire.deadline_ms = ceil(deadline_s * 1000)
    frame = SentFrame(message, len(planned.rows), planned.work, deadline_s, on_end)
    host.reserve(frame)
    return frame


class Race:
    """The same pairs, asked for twice: in the frame that was sent first, and in one or a few others.

    Attributes:
        first: The frame that took too long.
        seconds: The others, which have the same pairs together.
        winners: Whose answers are used; empty while it is open.
    """

    def __init__(self, first: Part, seconds: Sequence[Part]) -> None:
        self.first = first
        self.seconds = tuple(seconds)
        self.winners: tuple[Part, ...] = ()
        self._answered: set[Part] = set()
        self._failed: set[Part] = set()
        self._unused: set[Part] = set()

    @property
    def parts(self) -> tuple[Part, ...]:
        """Both sides."""
        return (self.first, *self.seconds)

    def answered(self, part: Part) -> bool:
        """An answer came that counts; whether that decides the race."""
        self._answered.add(part)
        self._dissolve()
        side = self._side(part)
        if self.winners or self._failed.intersection(side) or not self._answered.issuperset(side):
            return False
        self.winners = side
        return True

    def failed(self, part: Part) -> bool:
        """An answer will not come, or does not count; whether that leaves the pairs without any."""
        self._failed.add(part)
        self._dissolve()
        return not self.winners and all(
            self._failed.intersection(side) for side in ((self.first,), self.seconds)
        )

    def needs(self, part: Part) -> bool:
        """Whether the call waits for this one: not once the race is won, nor if the rest of its side has failed."""
        return not self.winners and not self._failed.intersection(self._side(part))

    def unused(self) -> list[Part]:
        """Those that have answered for nothing, as far as is known; each is named once."""
        if not self.winners and not self._failed:
            return []
        unused = [part for part in self._answered if not self.needs(part) and part not in self.winners]
        unused = [part for part in unused if part not in self._unused]
        self._unused.update(unused)
        return unused

    @property
    def complete(self) -> bool:
        """Whether both sides have answered, so that they can be compared."""
        return self._answered.issuperset(self.parts)

    def _dissolve(self) -> None:
        if self._answered.union(self._failed).issuperset(self.parts):
            for part in self.parts:
                part.race = None

    def _side(self, part: Part) -> tuple[Part, ...]:
        return (self.first,) if part is self.first else self.seconds
