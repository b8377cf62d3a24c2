"""Proven: enrolment needs both the key and the invite, over this very statement, and a proof is worth nothing elsewhere."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.trust.enrolment import EnrolmentProof, NotInvitedError, check_proof, prove
from folkmoot.trust.keys import (
    BadSignatureError,
    Identity,
    MissingSignatureError,
    SignatureError,
    WeakKeyError,
)
from folkmoot.trust.statements import enrolment_statement

COORDINATOR = Identity(b"c" * 32)
NODE = Identity(b"n" * 32)
SECRET = b"join secret, 16B"


def statement(*, node: bytes = NODE.public, nonce: bytes = b"1" * 32, name: str = "attic") -> bytes:
    return enrolment_statement(COORDINATOR.public, node, nonce, b"2" * 32, name, "0.1.0")


def test_an_invited_node_with_its_key_is_enrolled() -> None:
    proof = prove(NODE, SECRET, statement())
    assert check_proof(NODE.public, SECRET, statement(), proof) == NODE.verifying_key


def test_the_proof_of_the_invite_is_an_hmac_sha256() -> None:
    expected = hmac.new(SECRET, statement(), hashlib.sha256).digest()
    assert prove(NODE, SECRET, statement()).invite_proof == expected


@given(st.binary(max_size=40).filter(lambda secret: secret.rstrip(b"\0") != SECRET))
def test_another_secret_is_no_invitation(secret: bytes) -> None:
    with pytest.raises(NotInvitedError):
        check_proof(NODE.public, SECRET, statement(), prove(NODE, secret, statement()))


@given(st.binary(max_size=70))
def test_arbitrary_bytes_prove_nothing(forged: bytes) -> None:
    honest = prove(NODE, SECRET, statement())
    with pytest.raises(NotInvitedError):
        check_proof(NODE.public, SECRET, statement(), dataclasses.replace(honest, invite_proof=forged))
    with pytest.raises(SignatureError):
        check_proof(NODE.public, SECRET, statement(), dataclasses.replace(honest, possession_proof=forged))


def test_missing_proofs_are_wrong_proofs() -> None:
    honest = prove(NODE, SECRET, statement())
    with pytest.raises(NotInvitedError):
        check_proof(NODE.public, SECRET, statement(), EnrolmentProof(b"", honest.possession_proof))
    with pytest.raises(MissingSignatureError):
        check_proof(NODE.public, SECRET, statement(), EnrolmentProof(honest.invite_proof, b""))


def test_an_invited_stranger_cannot_enrol_anothers_key() -> None:
    with pytest.raises(BadSignatureError):
        check_proof(NODE.public, SECRET, statement(), prove(Identity.generate(), SECRET, statement()))


@pytest.mark.parametrize(
    "other", [statement(nonce=b"9" * 32), statement(name="cellar"), statement(node=COORDINATOR.public)]
)
def test_a_proof_over_another_statement_is_refused(other: bytes) -> None:
    with pytest.raises(NotInvitedError):
        check_proof(NODE.public, SECRET, other, prove(NODE, SECRET, statement()))


def test_a_weak_key_is_refused_before_its_proof_is_looked_at() -> None:
    weak = (1).to_bytes(32, "little")
    constant = weak + bytes(32)
    stated = statement(node=weak)
    proof = EnrolmentProof(hmac.digest(SECRET, stated, "sha256"), constant)
    with pytest.raises(WeakKeyError):
        check_proof(weak, SECRET, stated, proof)
