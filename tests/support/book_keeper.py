"""A process that does nothing but keep books, as fast as it can, and tells in a file what it may tell: to be killed.

Guarantees: what stands in the file was durable before; a line that was cut short is none. Each life has a file of its own.
"""

from __future__ import annotations

import itertools
import os
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from folkmoot.coordinator.audit.standing_book import StandingBook
from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.ids import NodeId
from folkmoot.trust.keys import Identity
from folkmoot.trust.receipts import CreditedResult, Receipt, ReceiptChain, SignedReceipt
from folkmoot.trust.standing import StandingSettings

COORDINATOR: Final = Identity(b"c" * 32)
NODES: Final = 3
ROWS, ROW_BYTES = 3, 1 << 50
"""What each result comes to."""


def told_in(folder: Path, life: int) -> Path:
    """Where it tells in one life."""
    return folder / f"told-{life}"


def node_id(number: int) -> NodeId:
    """One of the nodes."""
    return NodeId((bytes([number]) * 32).hex())


def issued_at(life: int, turn: int) -> int:
    """When a ticket is said to be issued: each later than all before it."""
    return life * 10**8 + turn


def keep(folder: Path, url: str, life: int) -> None:
    """Keeps books for ever: receipts of each node, tickets, verdicts."""
    books = Books(BooksSettings(url=url), folder, COORDINATOR.public)
    standings = StandingBook(books.standings, StandingSettings())
    told = os.open(told_in(folder, life), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sessions = [_Session(number, life) for number in range(NODES)]

    def tell(done: Future[None], line: str) -> None:
        """At once: what is told too soon is then likely to be found out."""
        done.add_done_callback(lambda written: written.result() or os.write(told, f"{line}\n".encode()))

    for turn in itertools.count():
        waiting = []
        for number, session in enumerate(sessions):
            receipt = session.next()
            books.receipts.receipted(SignedReceipt.signed(receipt, COORDINATOR), 1, ROWS, ROW_BYTES)
            waiting.append(books.receipts.flush())
            tell(waiting[-1], f"receipt {receipt.session.hex()} {receipt.number}")
            ticket = f"{life} {turn} {number}".encode()
            times = (issued_at(life, turn), 10**12)
            waiting.append(books.contributors.enrolled(node_id(number), "n", "0.1", None, ticket, times))
            tell(waiting[-1], f"ticket {number} {times[0]}")
        if turn % 4 == 0:
            standings.banned(node_id(turn % NODES), f"{life} {turn}")
            os.write(told, f"ban {turn % NODES} {life} {turn}\n".encode())
        for future in waiting:
            future.result()


class _Session:
    """Receipts of one node's session in one life of the process."""

    def __init__(self, number: int, life: int) -> None:
        session = life.to_bytes(16) + number.to_bytes(16)
        self._chain = ReceiptChain(COORDINATOR.public, bytes([number]) * 32, session, b"m" * 32)
        self._last: Receipt | None = None

    def next(self) -> Receipt:
        """One more."""
        through = self._last.through + 1 if self._last else 1
        result = CreditedResult(through, b"l" * 32, ROWS, ROW_BYTES)
        self._last = self._chain.next(self._last, [result], through, int(time.time()))
        return self._last
