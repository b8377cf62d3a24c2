"""A session's books as a coordinator keeps them that cheats its nodes: faults as an enum, injected into the real class.

Guarantees: every receipt is signed, numbered and chained as an honest one; only what the lie's name says differs, and only from
the second receipt on.
"""

from __future__ import annotations

import dataclasses
from enum import Enum, auto
from typing import Any

from folkmoot.coordinator.ledger.session_book import Issued, SessionBook
from folkmoot.trust import merkle
from folkmoot.trust.receipts import CreditedResult, Receipt, SignedReceipt


class Lie(Enum):
    """One way of cheating a node."""

    OMITS = auto()
    """Leaves a result out and does not say so."""
    INVENTS = auto()
    """Covers a result that the node never gave, and credits it."""
    REORDERS = auto()
    CHANGES = auto()
    """Says that the node signed another output."""
    UNDERPAYS = auto()
    SKIPS_A_NUMBER = auto()
    BREAKS_THE_CHAIN = auto()
    REACHES_AHEAD = auto()
    """Reaches frames that were never sent, so that no receipt will cover their results."""


class LyingBook(SessionBook):
    """Books that lie from the second receipt on."""

    lie = Lie.OMITS

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._leaves: dict[int, CreditedResult] = {}

    def accept(self, result: CreditedResult) -> bool:
        """Remembers the leaf, too."""
        self._leaves[result.sequence] = result
        return super().accept(result)

    def _sealed(self, through: int, now_s: float, unix_s: int) -> Issued | None:
        before = self.last
        if before is not None and len([number for number in self._leaves if number <= through]) < 2:
            return None
        issued = super()._sealed(through, now_s, unix_s)
        if issued is None:
            return None
        covered = [self._leaves.pop(number) for number in sorted(self._leaves) if number <= through]
        if before is None:
            return issued
        forged = self._forged(issued.signed.receipt, [result.leaf for result in covered])
        self.last = SignedReceipt.signed(forged, self._identity)
        self._unacknowledged[forged.digest()] = forged.number
        return dataclasses.replace(issued, signed=self.last)

    def _forged(self, receipt: Receipt, leaves: list[bytes]) -> Receipt:
        changed = dataclasses.replace
        match self.lie:
            case Lie.OMITS:
                return changed(
                    receipt, count=receipt.count - 1, total=receipt.total - 1, root=merkle.root(leaves[1:])
                )
            case Lie.INVENTS:
                more = [*leaves, merkle.leaf_hash(b"never given")]
                return changed(
                    receipt, count=receipt.count + 1, total=receipt.total + 1, root=merkle.root(more)
                )
            case Lie.REORDERS:
                return changed(receipt, root=merkle.root(leaves[::-1]))
            case Lie.CHANGES:
                return changed(receipt, root=merkle.root([merkle.leaf_hash(b"another"), *leaves[1:]]))
            case Lie.UNDERPAYS:
                return changed(receipt, row_bytes=receipt.row_bytes - 1)
            case Lie.SKIPS_A_NUMBER:
                return changed(receipt, number=receipt.number + 1)
            case Lie.BREAKS_THE_CHAIN:
                return changed(receipt, previous=bytes(32))
            case Lie.REACHES_AHEAD:
                return changed(receipt, through=receipt.through + 1_000_000)
