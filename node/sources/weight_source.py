"""What a source of experts is, and the ways in which one fails.

Guarantees of every source: it brings pieces of what was asked for and nothing else, no byte twice in one call; it gives up by
itself when nothing comes for as long as it was told. None of them says that the bytes are right, which only their SHA-256 can.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple, Protocol

from ...errors import UnavailableError, WireError
from ...ids import ExpertKey
from ...models.manifest import Manifest
from .spans import Span


class SourceError(WireError):
    """The source sent what was not asked for."""


class SourceLostError(UnavailableError):
    """The source does not answer, or stopped to; it may later."""


class SourceSilentError(SourceLostError):
    """The source was asked, and nothing came for as long as it may take."""


class SourceSlowError(SourceLostError):
    """The source brings too little a second, and there is another one."""


class SourceLiedError(SourceLostError):
    """All bytes of an expert came from the source, and they are not those that the manifest promises."""


class SourceBusyError(UnavailableError):
    """The source asks to be left alone for a while.

    Attributes:
        wait_s: For how long.
    """

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class SourceUnfitError(UnavailableError):
    """The source cannot be used for this model, now or later: it does not have it, or does not let this node have it."""


class NotOfferedError(UnavailableError):
    """The source does not have this one expert."""


class Want(NamedTuple):
    """An expert, and which of its canonical bytes are wanted; ascending, none empty."""

    key: ExpertKey
    missing: tuple[Span, ...]

    @property
    def length(self) -> int:
        """How many bytes are wanted."""
        return sum(span.length for span in self.missing)


class Piece(NamedTuple):
    """Canonical bytes of an expert, from `offset` on."""

    key: ExpertKey
    offset: int
    data: bytes


class WeightSource(Protocol):
    """Somewhere to get experts from.

    Attributes:
        name: What people call it.
        remote: Whether its bytes come over a network, and so are counted and limited.
        joins: Whether several experts at once are worth more to it than one after another.
        last_resort: Whether there is nobody to ask after it: it may fail, but is never done without.
    """

    @property
    def name(self) -> str: ...
    @property
    def remote(self) -> bool: ...
    @property
    def joins(self) -> bool: ...
    @property
    def last_resort(self) -> bool: ...

    def offers(self, manifest: Manifest, key: ExpertKey) -> bool:
        """Whether it is worth asking it for this expert; without asking anybody."""
        ...

    def fetch(self, manifest: Manifest, wants: Sequence[Want]) -> AsyncGenerator[Piece, None]:
        """What is wanted, in any order; fewer bytes when it ends early.

        Raises:
            SourceError, SourceLostError, SourceBusyError, SourceUnfitError, NotOfferedError: as it fails.
            FolkmootError: when it fails in a way that is its own; asking again does not help.
        """
        ...
