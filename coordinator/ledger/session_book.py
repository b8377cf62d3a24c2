"""One session's books: the results that were accepted since its last receipt, and the receipts.

Guarantees: each accepted result is in exactly one receipt, or `accept` has said that it comes too late for any; a receipt reaches
only frames that ended a while ago, so that a result which is being checked is not passed over; memory is bounded by
`MOST_OPEN` results, and by the receipts that a node may leave unacknowledged. A pure state machine: clocks are given.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from ...trust.keys import Identity, VerifyingKey
from ...trust.receipts import Acknowledgement, CreditedResult, ReceiptChain, ReceiptError, SignedReceipt
from .settings import MOST_RESULTS, ReceiptSettings

MOST_OPEN: Final = 4 * MOST_RESULTS
MOST_UNACKNOWLEDGED: Final = 64
"""Receipts that are remembered until the node agrees; older ones are covered by any later agreement."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A receipt that goes out.

    Attributes:
        signed: The receipt.
        omitted: Frames that it reaches and of which no result was accepted.
        rows, row_bytes: What it adds to the session's credit.
    """

    signed: SignedReceipt
    omitted: tuple[int, ...]
    rows: int
    row_bytes: int


class SessionBook:
    """The books of one session."""

    def __init__(
        self, chain: ReceiptChain, identity: Identity, settings: ReceiptSettings, now_s: float
    ) -> None:
        self.last: SignedReceipt | None = None
        self.acknowledged = 0
        self._chain = chain
        self._identity = identity
        self._settings = settings
        self._open: dict[int, CreditedResult] = {}
        self._ended: deque[tuple[float, int]] = deque()
        self._issued_s = now_s
        self._unacknowledged: OrderedDict[bytes, int] = OrderedDict()

    @property
    def through(self) -> int:
        """The last frame that a receipt reaches."""
        return self.last.receipt.through if self.last is not None else 0

    @property
    def waiting(self) -> int:
        """Accepted results without a receipt."""
        return len(self._open)

    @property
    def newest(self) -> int:
        """The newest frame of which a result waits for a receipt; `through` when none does."""
        return max(self._open, default=self.through)

    def accept(self, result: CreditedResult) -> bool:
        """Takes an accepted result; whether it will be in a receipt."""
        if result.sequence <= self.through or len(self._open) >= MOST_OPEN:
            return False
        self._open[result.sequence] = result
        return True

    def ended(self, through: int, now_s: float) -> None:
        """All frames up to one have ended by now: were answered, refused, or given up."""
        self._ended.append((now_s, through))
        while len(self._ended) > 1 and self._ended[1][0] <= now_s - self._settings.settle_s:
            self._ended.popleft()

    def issue(self, now_s: float, unix_s: int) -> Issued | None:
        """The next receipt, when it is due."""
        if not self._ended or not self._open:
            return None
        at_s, through = self._ended[0]
        if len(self._open) >= MOST_RESULTS:
            # Rather pass over a result that takes long to check than keep ever more of them.
            through = self._ended[-1][1]
        elif at_s > now_s - self._settings.settle_s:
            return None
        enough = len(self._open) >= self._settings.results
        if not enough and now_s - self._issued_s < self._settings.every_s:
            return None
        return self._sealed(through, now_s, unix_s)

    def close(self, through: int, now_s: float, unix_s: int) -> Issued | None:
        """The last receipt, over all that is left; None when nothing is."""
        return self._sealed(through, now_s, unix_s)

    def acknowledge(self, digest: bytes, signature: bytes, key: VerifyingKey) -> None:
        """The node agrees with a receipt, and so with all before it.

        Raises:
            ReceiptError: when no such receipt waits for that.
            SignatureError: when it is not signed by the node.
        """
        number = self._unacknowledged.get(digest)
        if number is None:
            raise ReceiptError("the node agrees with a receipt that it was not given")
        key.verify(signature, Acknowledgement(digest).encode())
        while self._unacknowledged and next(iter(self._unacknowledged.values())) <= number:
            self._unacknowledged.popitem(last=False)
        self.acknowledged = number

    def _sealed(self, through: int, now_s: float, unix_s: int) -> Issued | None:
        before = self.through
        results = sorted(
            (result for result in self._open.values() if result.sequence <= through),
            key=lambda result: result.sequence,
        )
        if not results:
            return None
        previous = self.last.receipt if self.last is not None else None
        receipt = self._chain.next(previous, results, through, unix_s)
        omitted = tuple(number for number in range(before + 1, through + 1) if number not in self._open)
        for result in results:
            del self._open[result.sequence]
        self.last = SignedReceipt.signed(receipt, self._identity)
        self._issued_s = now_s
        self._unacknowledged[receipt.digest()] = receipt.number
        if len(self._unacknowledged) > MOST_UNACKNOWLEDGED:
            self._unacknowledged.popitem(last=False)
        rows, row_bytes = sum(result.rows for result in results), sum(result.row_bytes for result in results)
        return Issued(self.last, omitted, rows, row_bytes)
