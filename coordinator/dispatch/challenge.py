"""A challenge that was given to a link, and what becomes of it.

Guarantees: a `Host` calls `on_end` of each challenge that it was given exactly once, with an `Opened`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from ...protos.folkmoot.v1 import link_pb2


class Unopened(StrEnum):
    """Why a challenge has no opening that counts; the value is the metrics' label."""

    LATE = "late"
    REFUSED = "refused"
    NOT_NOW = "not_now"
    """The node does not hold the experts any more, or has too much to do: no fault of its own."""
    SIGNATURE = "signature"
    MALFORMED = "malformed"
    LINK_LOST = "link_lost"


Opened = link_pb2.Opening | Unopened
"""What came of a challenge: an opening as it came, with nothing about it believed yet; or why there is none."""


@dataclass(slots=True, eq=False)
class SentChallenge:
    """A challenge on its way.

    Attributes:
        message: What goes on the wire.
        rows: How many rows it carries.
        deadline_s: How long the node has, from sending on.
        on_end: Told once what came of it.
        timer: Ends it when nothing comes; the link's.
    """

    message: link_pb2.Challenge
    rows: int
    deadline_s: float
    on_end: Callable[[Opened], None]
    timer: asyncio.TimerHandle | None = None
