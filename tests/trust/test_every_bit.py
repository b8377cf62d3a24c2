"""Proven of every kind of statement, through the code that accepts it: with any single bit flipped, in what is sent, in what was
signed, or in the signature, it is refused by an error of this project's own. Here: what lasts; `test_every_bit_on_a_link.py` has the rest."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from folkmoot.coordinator.app import check_signature
from folkmoot.errors import FolkmootError, TrustError
from folkmoot.tests.support.flips import accepted_flips, flipped, signed_with_each_flip
from folkmoot.tests.support.memory_log import MemoryLog
from folkmoot.tests.support.small_evidence import (
    COORDINATOR,
    DIGEST,
    NO_EXPERTS,
    NODE,
    bias_evidence,
    evidence,
)
from folkmoot.trust import statements
from folkmoot.trust.audit_statements import VerdictKind, VerdictStatement
from folkmoot.trust.checkpoints import open_checkpoint
from folkmoot.trust.enrolment import EnrolmentProof, check_proof, prove
from folkmoot.trust.evidence_check import check_bytes
from folkmoot.trust.keys import Identity, fingerprint
from folkmoot.trust.log_entries import CreditEntry, EnrolmentEntry, LogEntry, LoggedStatement, ReceiptsEntry
from folkmoot.trust.log_tiles import CHECKPOINT_PATH
from folkmoot.trust.log_verifier import LogVerifier
from folkmoot.trust.logged_receipts import LoggedReceipt, batch_entry
from folkmoot.trust.receipts import CreditedResult, Receipt, ReceiptChain, SignedReceipt
from folkmoot.trust.statements import StatementError
from folkmoot.trust.tickets import TicketError, check_ticket, issue_ticket
from folkmoot.trust.tls import PinError, TlsIdentity, check_certificate

SOME_OR_ALL = pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.fuzz)])
"""Files that are made of statements which are tried bit by bit: every seventh bit of them, and all where there is time."""


SIGNATURE_STEP: Final = 7
"""One code checks all signatures: every bit is tried of those of results, receipts, tickets and entries, some of the others."""


def test_enrolments() -> None:
    secret = b"j" * 16
    statement = statements.enrolment_statement(
        COORDINATOR.public, NODE.public, b"c" * 32, b"n" * 32, "a name", "1.0"
    )
    proof = prove(NODE, secret, statement)

    def enrols(stated: bytes, invited: bytes, possessed: bytes) -> None:
        check_proof(NODE.public, secret, stated, EnrolmentProof(invited, possessed))

    invited, possessed = proof.invite_proof, proof.possession_proof
    assert not accepted_flips(invited, lambda one: enrols(statement, one, possessed), TrustError)
    assert not accepted_flips(
        possessed, lambda one: enrols(statement, invited, one), TrustError, step=SIGNATURE_STEP
    )
    assert not accepted_flips(
        statement,
        lambda one: enrols(statement, invited, prove(NODE, secret, one).possession_proof),
        TrustError,
    )
    assert not accepted_flips(
        statement, lambda one: enrols(statement, prove(NODE, secret, one).invite_proof, possessed), TrustError
    )
    assert not accepted_flips(
        secret, lambda one: enrols(statement, prove(NODE, one, statement).invite_proof, possessed), TrustError
    )


def test_tickets() -> None:
    ticket = issue_ticket(COORDINATOR, NODE.public, 1_000_000)

    def check(data: bytes) -> None:
        check_ticket(COORDINATOR.public, data, NODE.public, 999_999.0)

    assert not accepted_flips(ticket, check, TicketError)
    statement = statements.ticket_statement(COORDINATOR.public, NODE.public, 1_000_000)
    assert not signed_with_each_flip(
        statement, COORDINATOR, lambda one: check(ticket[:-64] + one), TicketError
    )


class Misled:
    """An identity whose signatures are over other bytes than it was asked to sign."""

    def __init__(self, bit: int) -> None:
        self.public = COORDINATOR.public
        self._bit = bit

    def sign(self, data: bytes) -> bytes:
        return COORDINATOR.sign(flipped(data, self._bit))


@pytest.mark.filterwarnings("ignore:Parsed a serial number:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Parsed a serial number:cryptography.utils.CryptographyDeprecationWarning")
def test_certificates() -> None:
    pinned = fingerprint(COORDINATOR.public)
    pem = TlsIdentity.generate(COORDINATOR).certificate_pem
    certificate = x509.load_pem_x509_certificate(pem)
    der = certificate.public_bytes(serialization.Encoding.DER)
    info = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    start, key_start = der.index(COORDINATOR.public), der.index(info)
    # Beside what is vouched for, a certificate says nothing that anybody reads.
    vouched = {*range(8 * start, 8 * (start + 96)), *range(8 * key_start, 8 * (key_start + len(info)))}

    def check(data: bytes) -> None:
        assert check_certificate(_pem(data), pinned) == COORDINATOR.public

    accepted_flips(der, check, PinError, step=11)
    for bit in sorted(vouched):
        with pytest.raises(PinError):
            check(flipped(der, bit))
    length = len(statements.tls_statement(COORDINATOR.public, bytes(32)))
    for bit in range(8 * length):
        other = TlsIdentity.generate(cast(Identity, Misled(bit)))
        with pytest.raises(PinError):
            check_certificate(other.certificate_pem, pinned)


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def test_manifests() -> None:
    def check(digest: bytes, signature: bytes) -> None:
        prepared: Any = SimpleNamespace(
            folder="a folder",
            manifest=SimpleNamespace(digest=digest),
            signature=SimpleNamespace(key=COORDINATOR.public, signature=signature),
        )
        check_signature(prepared)

    statement = statements.manifest_statement(DIGEST)
    signature = COORDINATOR.sign(statement)
    assert not accepted_flips(DIGEST, lambda one: check(one, signature), FolkmootError)
    assert not accepted_flips(signature, lambda one: check(DIGEST, one), FolkmootError, step=SIGNATURE_STEP)
    assert not signed_with_each_flip(statement, COORDINATOR, lambda one: check(DIGEST, one), FolkmootError)


LOGGED: tuple[LoggedStatement, ...] = (
    EnrolmentEntry(COORDINATOR.public, NODE.public, b"v" * 32, 5),
    VerdictStatement(
        COORDINATOR.public, NODE.public, DIGEST, b"t" * 32, b"o" * 32, VerdictKind.WRONG, 150_000, 7_000, 1
    ),
    ReceiptsEntry(COORDINATOR.public, 3, b"r" * 32, 6),
    CreditEntry(COORDINATOR.public, NODE.public, 4, 5, 6, 7),
)


@pytest.mark.parametrize("statement", LOGGED, ids=lambda statement: type(statement).__name__)
def test_log_entries(statement: LoggedStatement) -> None:
    encoded = LogEntry.signed(statement, COORDINATOR).encode()
    assert not accepted_flips(
        encoded, lambda data: LogEntry.decode(data).verify(COORDINATOR.public), TrustError
    )


@SOME_OR_ALL
def test_logged_receipts(step: int) -> None:
    chain = ReceiptChain(COORDINATOR.public, NODE.public, b"s" * 32, DIGEST)
    receipt = chain.next(None, [CreditedResult(1, b"l" * 32, 2, 100)], 1, 7)
    batch = [SignedReceipt.signed(receipt, COORDINATOR)]
    entry = LogEntry.signed(batch_entry(COORDINATOR.public, batch, 9), COORDINATOR).encode()
    encoded = LoggedReceipt(batch[0], 0, (), entry, 0).encode()
    accepted = accepted_flips(encoded, lambda data: LoggedReceipt.decode(data).check(), TrustError, step=step)
    # Where the entry stands in the log is for whoever reads the log to find out.
    assert set(accepted) <= set(range(8 * (len(encoded) - 8), 8 * len(encoded)))


def test_what_a_log_serves() -> None:
    log = MemoryLog(COORDINATOR)
    entries = [b"entry %d" % number for number in range(3)]
    checkpoint = log.publish(entries)
    note = log.files[CHECKPOINT_PATH]
    assert not accepted_flips(note, lambda data: open_checkpoint(data, log.key), TrustError)
    for path in [path for path in log.files if path.endswith(".p/3")]:

        def read(data: bytes, path: str = path) -> None:
            verifier = LogVerifier(log.key, lambda wanted: data if wanted == path else log.files.get(wanted))
            assert [entry for _, entry in verifier.entries(checkpoint)] == entries

        assert not accepted_flips(log.files[path], read, TrustError), path


class UnprovenError(Exception):
    """A check of evidence ended before it asked for weights."""


def check_evidence(data: bytes) -> None:
    steps = list(check_bytes(data, NO_EXPERTS, COORDINATOR.public))
    if steps[-1].name != "recomputation":
        raise UnprovenError


@SOME_OR_ALL
def test_evidence(step: int) -> None:
    assert not accepted_flips(evidence().encode(), check_evidence, UnprovenError, step=step)


@SOME_OR_ALL
def test_evidence_of_a_bias(step: int) -> None:
    one = bias_evidence()
    encoded = one.encode()
    accepted = accepted_flips(encoded, check_evidence, UnprovenError, step=4 * step + 1 if step > 1 else 1)
    # Which rows count is the coordinator's choice, and no signature covers it.
    chosen: set[int] = set()
    start = 32 + 4
    for counted in one.frames:
        start += len(counted.frame.encode_frame())
        end = start + 4 + 4 * len(counted.rows)
        chosen |= set(range(8 * start, 8 * end))
        start = end
    assert set(accepted) <= chosen


def test_statements_of_every_kind_refuse_another_tag() -> None:
    for kind in (Receipt, VerdictStatement, EnrolmentEntry, CreditEntry, ReceiptsEntry):
        whole = kind.TAG + bytes(kind.BYTES - 32)
        for bit in range(8 * 32):
            with pytest.raises(StatementError):
                kind.decode(flipped(whole, bit))
