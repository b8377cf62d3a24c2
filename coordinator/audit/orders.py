"""The operator's orders about nodes, and how they reach a coordinator: as files in its state folder.

Guarantees: an order is given by whoever may write to the operator's own folder and by nobody else; it is obeyed at once
when the coordinator runs, and otherwise when it starts; it is removed only when what it says is on disk, so one that is
cut short is obeyed again. A file that is no order is put aside with a log line.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import stat
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from ...disk import disk_full, is_full
from ...errors import UsageError
from ...ids import NodeId, short
from ...protos.limits import MAX_REASON
from .private_files import private_folder, write_private
from .standing_book import StandingBook

log = logging.getLogger(__name__)

ORDERS_FOLDER: Final = "orders"
SUFFIX: Final = ".json"
FORMAT: Final = "folkmoot-order/1"
MAX_ORDER_BYTES: Final = 16 << 10
LOOK_EVERY_S: Final = 0.25
NODE_ID_CHARACTERS: Final = 64


class OrderError(UsageError):
    """An order makes no sense, or cannot be given here."""


class Wish(StrEnum):
    """What is to become of a node."""

    BAN = "ban"
    ADMIT = "admit"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class Order:
    """One order.

    Attributes:
        wish: What is to become of the node.
        node: Which.
        reason: Why, for everybody to read.
    """

    wish: Wish
    node: NodeId
    reason: str

    def __post_init__(self) -> None:
        """Raises OrderError when the reason is no text: it is shown to everybody."""
        try:
            self.reason.encode()
        except UnicodeEncodeError as error:
            raise OrderError(
                f"the reason holds {self.reason[error.start]!r}, which is no character",
                advice="give text in UTF-8",
            ) from error

    def encode(self) -> bytes:
        """The file's content."""
        document = {"format": FORMAT, "wish": self.wish.value, "node": self.node, "reason": self.reason}
        return json.dumps(document).encode()

    @classmethod
    def decode(cls, data: bytes) -> Order:
        """Reads what `encode` made.

        Raises:
            OrderError: when the bytes are anything else.
        """
        try:
            document = json.loads(data)
            node = document["node"]
            if document["format"] != FORMAT or len(bytes.fromhex(node)) * 2 != NODE_ID_CHARACTERS:
                raise ValueError("another version, or no node")
            reason = " ".join(document["reason"][:MAX_REASON].split())
            return cls(Wish(document["wish"]), NodeId(node.lower()), reason)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OrderError(f"this is no order ({error})") from error


class OrderBox:
    """The folder through which orders come."""

    def __init__(self, state: Path) -> None:
        """`state` is the coordinator's state folder."""
        self._folder = state / ORDERS_FOLDER

    def place(self, order: Order) -> Path:
        """Gives an order; the file is gone once it has been obeyed.

        Raises:
            OrderError: when the folder cannot be written to.
            DiskFullError: when there is no room for it.
        """
        path = self._folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}{SUFFIX}"
        try:
            private_folder(self._folder)
            write_private(path, order.encode())
        except OSError as error:
            if is_full(error):
                raise disk_full(self._folder, error) from error
            raise OrderError(
                f"no order can be given in {self._folder} ({error.strerror})",
                advice="run this as the user that runs the coordinator, or name its state folder with --state",
            ) from error
        return path

    def obey(self, standings: StandingBook) -> int:
        """Obeys all orders that are there, oldest first; says how many."""
        if not self._folder.is_dir():
            return 0
        obeyed = 0
        for path in sorted(self._folder.glob(f"[!.]*{SUFFIX}")):
            try:
                order = Order.decode(_read(path))
            except (OSError, OrderError) as error:
                log.error("%s is put aside: %s", path, error)
                path.rename(path.with_suffix(".refused"))
                continue
            _apply(order, standings)
            standings.save()  # what changes nothing, such as quarantining who is banned, is saved by nobody else
            if not standings.saved:
                break
            path.unlink()
            obeyed += 1
        return obeyed

    async def watch(self, standings: StandingBook) -> None:
        """Obeys orders as they come, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.obey, standings)
            except OSError as error:
                log.error("orders in %s cannot be looked at: %s", self._folder, error)
            await asyncio.sleep(LOOK_EVERY_S)


def _apply(order: Order, standings: StandingBook) -> None:
    log.warning("the operator's order: %s node %s (%s)", order.wish.value, short(order.node), order.reason)
    match order.wish:
        case Wish.BAN:
            standings.banned(order.node, order.reason)
        case Wish.ADMIT:
            standings.admitted(order.node, order.reason)
        case Wish.QUARANTINE:
            standings.quarantined(order.node, order.reason)


def _read(path: Path) -> bytes:
    """An order's bytes, if the file is the operator's own."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise OrderError("it is not a file of the user that runs the coordinator")
        return file.read(MAX_ORDER_BYTES)
