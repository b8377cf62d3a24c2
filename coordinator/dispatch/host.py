"""What dispatch needs of a link, and what becomes of a frame that was given to one.

Guarantees: a `Host` calls `on_end` of each frame that it was given exactly once, from the event loop, with an `Ending`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from ...errors import FolkmootError
from ...ids import NodeId, SessionId
from ...protos.folkmoot.v1 import link_pb2
from ...trust.keys import VerifyingKey
from .challenge import SentChallenge
from .choice import HostEstimate


class Failure(Enum):
    """Why a frame has no answer; the value is the metrics' label."""

    TIMED_OUT = "timed_out"
    LINK_LOST = "link_lost"
    NOT_HELD = "not_held"
    OVERLOADED = "overloaded"
    MALFORMED = "malformed"
    INTERNAL = "internal"


Ending = link_pb2.Result | Failure
"""A frame's answer as it came, with nothing about it believed yet; or why there is none."""


@dataclass(slots=True, eq=False)
class SentFrame:
    """One frame on its way; made by dispatch, filled in by the link that takes it.

    Attributes:
        message: What goes on the wire; the link writes the sequence number into it.
        rows: How many rows it carries.
        work: What computing it costs, in bytes of weights read.
        deadline_s: How long the node has, from sending on.
        on_end: Told how it ended.
        sequence: Its number within the session; 0 until it is sent.
        reserved_s: What the host counts as its work to come while the frame is out.
        service_s: How long the node took, as measured here; 0 until it answers.
        ended_at_s: When it ended, by the monotonic clock; 0 while it is out.
    """

    message: link_pb2.CoordinatorMessage
    rows: int
    work: float
    deadline_s: float
    on_end: Callable[[SentFrame, Ending], None]
    sequence: int = 0
    reserved_s: float = 0.0
    service_s: float = 0.0
    sent_at_s: float = field(default=0.0)
    ended_at_s: float = 0.0


class Host(Protocol):
    """An attached node that frames can be sent to."""

    @property
    def node(self) -> NodeId:
        """Who it is."""
        ...

    @property
    def key(self) -> VerifyingKey:
        """What its signatures are checked with."""
        ...

    @property
    def session(self) -> SessionId:
        """This life of its link."""
        ...

    @property
    def software_version(self) -> str:
        """What it says it runs: a name for its kind, never believed."""
        ...

    def estimate(self) -> HostEstimate:
        """What is believed of it right now; any thread."""
        ...

    def deadline_s(self, rows: int) -> float:
        """How long a frame of so many rows may take, given what it has to do before; any thread."""
        ...

    def reserve(self, frame: SentFrame) -> None:
        """Counts a planned frame as work to come, so that the next plan sees it; any thread."""
        ...

    def send(self, frame: SentFrame) -> None:
        """Sends a reserved frame, now or when there is room; event loop only."""
        ...

    def ask(self, challenge: SentChallenge) -> None:
        """Sends a challenge about a verified result, now or when there is room; any thread."""
        ...

    def verified(self, frame: SentFrame) -> None:
        """The frame's answer was found right; any thread."""
        ...

    def rejected(self, frame: SentFrame, error: FolkmootError, reason: str) -> None:
        """The frame's answer was thrown away, and the node is to blame; any thread."""
        ...
