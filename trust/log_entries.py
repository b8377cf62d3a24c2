"""What stands in the public log.

Guarantees: an entry is one signed canonical statement, and has one encoding: the statement's bytes and then the
signature; its kind is told by the statement's domain tag. A receipt is signed by the node that it binds, all else by
the coordinator, so each entry can be checked by itself. Keys are in the log; names, prompts and activations never
are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .audit_statements import VerdictStatement
from .canonical import CanonicalStatement
from .keys import SIGNATURE_BYTES, Identity, VerifyingKey
from .log_tiles import LogError
from .receipts import CreditStatement, StepReceipt
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


LoggedStatement = EnrolmentEntry | StepReceipt | VerdictStatement | CreditStatement
_KINDS: Final = (EnrolmentEntry, StepReceipt, VerdictStatement, CreditStatement)
_BY_TAG: Final = {kind.TAG: kind for kind in _KINDS}


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A statement and the signature over it."""

    statement: LoggedStatement
    signature: bytes

    @classmethod
    def signed(cls, statement: LoggedStatement, identity: Identity) -> LogEntry:
        """The entry of a statement that this identity makes."""
        return cls(statement, identity.sign(statement.encode()))

    @property
    def signer(self) -> bytes:
        """The key that must have signed it."""
        statement = self.statement
        return statement.node if isinstance(statement, StepReceipt) else statement.coordinator

    def verify(self, coordinator: bytes) -> None:
        """Returns when the signature holds and the entry is of this coordinator's log.

        Raises:
            LogError: when it is another's.
            WeakKeyError: when the signer's key is none.
            SignatureError: when the signature does not hold.
        """
        if self.statement.coordinator != coordinator:
            raise LogError("an entry of another coordinator stands in the log")
        VerifyingKey(self.signer).verify(self.signature, self.statement.encode())

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
