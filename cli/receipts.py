"""What a contributor's machine holds of receipts, checked offline and, where a URL is given, against the public log.

Guarantees: a line says that something holds only when it was checked: the coordinator's signature, and that the receipt stands in
a batch of the log, and the batch in the log that is served. Nothing needs the node to be stopped, or to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..amounts import format_bytes
from ..errors import TrustError
from ..node.receipt_folder import KeptReceipts, ReceiptFolder
from ..trust.checkpoints import Checkpoint, named_log_key, open_checkpoint
from ..trust.log_tiles import CHECKPOINT_PATH
from ..trust.log_verifier import Fetch, LogVerifier
from ..trust.logged_receipts import LoggedReceipt
from ..trust.receipts import Receipt


@dataclass(frozen=True, slots=True)
class ShownReceipt:
    """One session's receipt, checked.

    Attributes:
        session: Its id in hexadecimal.
        receipt: The newest; None when it cannot be read.
        held: Whether all that was checked is as it must be.
        detail: What was found, or what is wrong.
        logged: Results that are covered by a receipt which stands in the public log, as far as was checked.
    """

    session: str
    receipt: Receipt | None
    held: bool
    detail: str
    logged: int

    def line(self) -> str:
        """For people."""
        if self.receipt is None:
            return f"NO  session {self.session[:12]}  {self.detail}"
        receipt = self.receipt
        when = datetime.fromtimestamp(min(receipt.issued_unix_s, 1 << 36), UTC).strftime("%Y-%m-%d %H:%M")
        return (
            f"{'ok' if self.held else 'NO':<4}session {self.session[:12]}  {when}  receipt {receipt.number}: "
            f"{receipt.total} results, {receipt.rows} rows, {format_bytes(receipt.row_bytes)} of experts; {self.detail}"
        )

    def document(self) -> dict[str, Any]:
        """For programs."""
        receipt = self.receipt
        return {
            "session": self.session,
            "held": self.held,
            "detail": self.detail,
            "coordinator": receipt.coordinator.hex() if receipt else None,
            "number": receipt.number if receipt else None,
            "results": receipt.total if receipt else None,
            "rows": receipt.rows if receipt else None,
            "row_bytes": receipt.row_bytes if receipt else None,
            "issued_unix_s": receipt.issued_unix_s if receipt else None,
            "results_in_log": self.logged,
        }


class LogAtHand:
    """The public log that receipts are compared with."""

    def __init__(self, fetch: Fetch) -> None:
        """Reads its newest checkpoint. Raises TrustError when it has none that is signed."""
        note = fetch(CHECKPOINT_PATH) or b""
        key = named_log_key(note)
        self.coordinator = key.key.raw
        self._checkpoint: Checkpoint = open_checkpoint(note, key)
        self._verifier = LogVerifier(key, fetch)

    def check(self, logged: LoggedReceipt) -> None:
        """Returns when a receipt's batch stands in the log. Raises TrustError."""
        self._verifier.check_inclusion(logged.entry, logged.index, self._checkpoint)


def shown(folder: ReceiptFolder, log: LogAtHand | None) -> Iterator[ShownReceipt]:
    """Every session's receipt, the oldest first."""
    for kept in folder.sessions():
        try:
            yield _shown(kept, log)
        except TrustError as error:
            receipt = kept.newest.receipt if kept.newest else None
            yield ShownReceipt(kept.name, receipt, False, error.message, 0)


def _shown(kept: KeptReceipts, log: LogAtHand | None) -> ShownReceipt:
    if kept.error is not None:
        return ShownReceipt(kept.name, None, False, kept.error.message, 0)
    if kept.newest is None:
        return ShownReceipt(kept.name, None, False, "its receipt is missing", 0)
    receipt = kept.newest.receipt
    kept.newest.verify()
    signed = f"signed by {receipt.coordinator.hex()[:12]}"
    if kept.logged is None:
        return ShownReceipt(kept.name, receipt, True, f"{signed}, not in the log yet", 0)
    kept.logged.check()
    covered = kept.logged.signed.receipt.total
    place = f"entry {kept.logged.index} of the log covers {covered} results"
    if log is None:
        return ShownReceipt(kept.name, receipt, True, f"{signed}; {place} (not looked up)", covered)
    if log.coordinator != receipt.coordinator:
        return ShownReceipt(kept.name, receipt, True, f"{signed}; this log is another coordinator's", 0)
    log.check(kept.logged)
    return ShownReceipt(kept.name, receipt, True, f"{signed}; {place}, and is there", covered)


def show(
    state: Path, fetch: Fetch | None, emit: Callable[[str], None], emit_json: Callable[[Any], None] | None
) -> bool:
    """Checks and prints all receipts below a node's state folder; whether all is as it must be.

    Args:
        state: The node's state folder.
        fetch: Reads what the public log serves; None looks nothing up.
        emit: Prints a line.
        emit_json: Prints one object instead.

    Raises:
        TrustError: when what is served is no log.
        DiskError: when the folder cannot be read.
    """
    folder = ReceiptFolder(state)
    log = LogAtHand(fetch) if fetch is not None else None
    receipts = []
    for one in shown(folder, log):
        receipts.append(one)
        if emit_json is None:
            emit(one.line())
    disputed = folder.disputed()
    held = all(one.held for one in receipts) and not disputed
    if emit_json is not None:
        emit_json(
            {
                "held": held,
                "sessions": [one.document() for one in receipts],
                "disputed": [str(path) for path in disputed],
            }
        )
        return held
    for path in disputed:
        emit(f"NO  {path} is signed by the coordinator, and is not what this node has done")
    total = sum(one.receipt.total for one in receipts if one.receipt is not None)
    emit(
        f"{len(receipts)} sessions, {total} results accepted, {sum(one.logged for one in receipts)} in the log"
    )
    return held
