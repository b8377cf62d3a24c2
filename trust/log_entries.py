"""What stands in the public log.

Guarantees: an entry is one canonical statement that the coordinator signed, and has one encoding: the statement's bytes and
then the signature; its kind is told by the statement's domain tag, so each entry can be checked by itself. Keys are in the
log; names, prompts and activations never are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .audit_statements import VerdictKind, VerdictStatement
from .canonical import CanonicalStatement
from .keys import SIGNATURE_BYTES, Identity, VerifyingKey
from .log_tiles import LogError
from .statements import StatementError


@dataclass(frozen=True, slots=True)
class EnrolmentEntry(CanonicalStatement, kind="log-enrolment", form="32s32s32sQ"):
    """A coordinator took a node in.

    Attributes:
        coordinator, node: Their public keys.
        software: SHA-256 of the version that the node said it runs.
        enrolled_unix_s: When.
    """

    coordinator: bytes
    node: bytes
    software: bytes
    enrolled_unix_s: int


@dataclass(frozen=True, slots=True)
class ReceiptsEntry(CanonicalStatement, kind="log-receipts", form="32sQ32sQ"):
    """What a coordinator's sessions had come to: one entry for many receipts, however much was answered.

    Attributes:
        coordinator: Its public key.
        count: Sessions that had a new receipt since the last such entry, at least one.
        root: Merkle root over the newest receipt of each, see `logged_receipts`.
        logged_unix_s: When.
    """

    coordinator: bytes
    count: int
    root: bytes
    logged_unix_s: int


@dataclass(frozen=True, slots=True)
class CreditEntry(CanonicalStatement, kind="log-credit", form="32s32sQQQQ"):
    """What a coordinator owes a node for all its sessions so far; the latest of a node replaces all before it.

    Attributes:
        coordinator, node: Their public keys.
        results: Results accepted and receipted.
        rows: Pairs of a row and an expert in them.
        row_bytes: The sum over these of the expert's canonical bytes.
        credited_unix_s: When.
    """

    coordinator: bytes
    node: bytes
    results: int
    rows: int
    row_bytes: int
    credited_unix_s: int


LoggedStatement = EnrolmentEntry | VerdictStatement | ReceiptsEntry | CreditEntry
KINDS: Final[dict[type[CanonicalStatement], str]] = {
    EnrolmentEntry: "enrolments",
    VerdictStatement: "verdicts",
    ReceiptsEntry: "batches of receipts",
    CreditEntry: "credits",
}
"""The kinds of entries, and what people call them."""
_FOUND: Final = {
    int(VerdictKind.CLEARED): "cleared",
    int(VerdictKind.WRONG): "a wrong result",
    int(VerdictKind.BIASED): "biased results",
}
_BY_TAG: Final = {kind.TAG: kind for kind in KINDS}


def describe(statement: LoggedStatement) -> str:
    """One line for people."""
    match statement:
        case EnrolmentEntry():
            return f"enrolment of node {_named(statement.node)}"
        case ReceiptsEntry():
            return f"receipts of {statement.count} sessions, root {statement.root.hex()[:16]}"
        case CreditEntry():
            return (
                f"credit of node {_named(statement.node)}: {statement.results} results, "
                f"{statement.rows} rows, {statement.row_bytes} bytes of experts worked through"
            )
        case VerdictStatement():
            found = _FOUND.get(statement.kind, f"of the unknown kind {statement.kind}")
            return (
                f"verdict about node {_named(statement.node)}: {found}, off by {statement.error_millionths} "
                f"millionths, allowed are {statement.tolerance_millionths}"
            )


def _named(key: bytes) -> str:
    return key.hex()[:12]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A statement and the signature over it."""

    statement: LoggedStatement
    signature: bytes

    @classmethod
    def signed(cls, statement: LoggedStatement, identity: Identity) -> LogEntry:
        """The entry of a statement that this identity makes."""
        return cls(statement, identity.sign(statement.encode()))

    def verify(self, coordinator: bytes) -> None:
        """Returns when the signature holds and the entry is of this coordinator's log.

        Raises:
            LogError: when it is another's.
            WeakKeyError: when the coordinator's key is none.
            SignatureError: when the signature does not hold.
        """
        if self.statement.coordinator != coordinator:
            raise LogError("an entry of another coordinator stands in the log")
        VerifyingKey(coordinator).verify(self.signature, self.statement.encode())

    def encode(self) -> bytes:
        """The canonical bytes."""
        return self.statement.encode() + self.signature

    @classmethod
    def decode(cls, data: bytes) -> LogEntry:
        """Reads what `encode` made.

        Raises:
            LogError: when the bytes are no entry of a kind that is known.
        """
        kind: type[CanonicalStatement] | None = _BY_TAG.get(data[:32])
        if kind is None or len(data) != kind.BYTES + SIGNATURE_BYTES:
            raise LogError("an entry is of no known kind", advice="update folkmoot to read this log")
        try:
            statement = kind.decode(data[: kind.BYTES])
        except StatementError as error:
            raise LogError(f"an entry is damaged ({error.message})") from error
        assert isinstance(statement, LoggedStatement)
        return cls(statement, data[kind.BYTES :])
