"""Proven: keys under which a signature binds nobody are refused, signatures hold for one key and one message only, and a
private key prints nothing of itself."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.errors import TrustError
from folkmoot.trust.keys import (
    BadSignatureError,
    Identity,
    MissingSignatureError,
    VerifyingKey,
    WeakKeyError,
    fingerprint,
)

P = 2**255 - 19
SIGN = 1 << 255
ORDER_EIGHT = [
    int.from_bytes(bytes.fromhex(digits), "little")
    for digits in (
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
]
SMALL_ORDER = [0, 1, P - 1, P, P + 1, *ORDER_EIGHT]

ALICE = Identity(bytes(range(32)))
BOB = Identity(bytes(32))


def double(y: int) -> int:
    """The y coordinate of twice a curve point, by the addition law of RFC 8032, section 5.1."""
    d = -121665 * pow(121666, -1, P) % P
    x_squared = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
    return (y * y + x_squared) * pow(1 - d * x_squared * y * y, -1, P) % P


def test_the_listed_points_of_order_eight_are_just_that() -> None:
    for y in ORDER_EIGHT:
        assert double(y) == 0  # a point of order 4
        assert double(double(double(y))) == 1


@pytest.mark.parametrize("sign", [0, SIGN])
@pytest.mark.parametrize("y", SMALL_ORDER)
def test_a_small_order_key_is_refused(y: int, sign: int) -> None:
    with pytest.raises(WeakKeyError):
        VerifyingKey((y | sign).to_bytes(32, "little"))


def test_a_small_order_key_would_accept_one_signature_for_everything() -> None:
    """Why they are refused: there are libraries that take them."""
    identity_point = (1).to_bytes(32, "little")
    constant = identity_point + bytes(32)
    for message in (b"one", b"another"):
        Ed25519PublicKey.from_public_bytes(identity_point).verify(constant, message)


@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=300))
def test_signatures_are_those_of_any_other_library(seed: bytes, message: bytes) -> None:
    ours, theirs = Identity(seed), Ed25519PrivateKey.from_private_bytes(seed)
    assert ours.public == theirs.public_key().public_bytes_raw()
    assert ours.sign(message) == theirs.sign(message)
    ours.verifying_key.verify(theirs.sign(message), message)


@pytest.mark.parametrize("sign", [0, SIGN])
@pytest.mark.parametrize("y", range(P, 2**255))
def test_an_encoding_that_is_not_canonical_is_refused(y: int, sign: int) -> None:
    with pytest.raises(WeakKeyError, match="canonical"):
        VerifyingKey((y | sign).to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(WeakKeyError, match=f"not {length}"):
        VerifyingKey(ALICE.public[:1] * length)


@given(st.binary(min_size=32, max_size=32))
def test_any_bytes_are_a_point_of_the_curve_or_refused(raw: bytes) -> None:
    y = int.from_bytes(raw, "little") % SIGN
    d = -121665 * pow(121666, -1, P) % P
    x_squared = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
    on_curve = pow(x_squared, (P + 3) // 8, P) ** 2 % P in (x_squared, -x_squared % P)
    try:
        key = VerifyingKey(raw)
    except WeakKeyError:
        assert not on_curve or y >= P or y in SMALL_ORDER
    else:
        assert on_curve and key.raw == raw


@given(st.binary(min_size=32, max_size=32))
def test_every_generated_key_is_accepted(seed: bytes) -> None:
    identity = Identity(seed)
    identity.verifying_key.verify(identity.sign(b"m"), b"m")
    assert bytes.fromhex(identity.node_id) == identity.public


def test_a_missing_signature_is_an_invalid_signature() -> None:
    with pytest.raises(MissingSignatureError) as caught:
        ALICE.verifying_key.verify(b"", b"message")
    assert isinstance(caught.value, TrustError)


@given(st.binary(max_size=200), st.integers(0, 511))
def test_a_signature_with_any_bit_flipped_is_bad(message: bytes, bit: int) -> None:
    signature = bytearray(ALICE.sign(message))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadSignatureError):
        ALICE.verifying_key.verify(bytes(signature), message)


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_a_signature_holds_for_its_message_only(message: bytes, other: bytes) -> None:
    signature = ALICE.sign(message)
    ALICE.verifying_key.verify(signature, message)
    if message != other:
        with pytest.raises(BadSignatureError):
            ALICE.verifying_key.verify(signature, other)
    with pytest.raises(BadSignatureError):
        BOB.verifying_key.verify(signature, message)


@given(st.binary(min_size=1, max_size=100))
def test_arbitrary_bytes_are_no_signature(signature: bytes) -> None:
    with pytest.raises(BadSignatureError):
        ALICE.verifying_key.verify(signature, b"message")


def test_a_signature_shifted_by_the_group_order_is_bad() -> None:
    """S and S + L satisfy the same equation; RFC 8032 takes the lesser only, or signatures could be respelled."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = ALICE.sign(b"m")
    s = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(BadSignatureError):
        ALICE.verifying_key.verify(signature[:32] + s.to_bytes(32, "little"), b"m")


def test_verifying_keys_compare_by_their_bytes() -> None:
    assert VerifyingKey(ALICE.public) == ALICE.verifying_key
    assert len({VerifyingKey(ALICE.public), ALICE.verifying_key, BOB.verifying_key}) == 2
    assert ALICE.verifying_key.node_id == ALICE.node_id


def test_a_fingerprint_names_one_key() -> None:
    assert len(fingerprint(ALICE.public)) == 32
    assert fingerprint(ALICE.public) != fingerprint(BOB.public)


def test_an_identity_prints_no_secret() -> None:
    identity = Identity(bytes(range(32)))
    assert bytes(range(32)).hex() not in repr(identity)
    assert identity.node_id in repr(identity)
    assert Identity.generate().public != Identity.generate().public
