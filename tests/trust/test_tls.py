"""Proven: a certificate is believed only when the pinned identity signed its key; whatever else is shown is refused with
one kind of error, and the files behind it survive restarts and damage is named."""

from __future__ import annotations

import datetime
import ssl
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.trust.keys import Identity, fingerprint
from folkmoot.trust.secret_files import SecretFileError
from folkmoot.trust.tls import (
    MAX_CERTIFICATE_BYTES,
    TLS_FILE,
    TLS_NAME,
    PinError,
    TlsFileError,
    TlsIdentity,
    check_certificate,
)

COORDINATOR = Identity(b"c" * 32)
OTHER = Identity(b"o" * 32)
TLS = TlsIdentity.generate(COORDINATOR)
OTHER_TLS = TlsIdentity.generate(OTHER)
PINNED = fingerprint(COORDINATOR.public)
BINDING_OID = next(
    extension.oid
    for extension in x509.load_pem_x509_certificate(TLS.certificate_pem).extensions
    if isinstance(extension.value, x509.UnrecognizedExtension)
)


def binding(pem: bytes) -> bytes:
    """The value of the extension in which the identity vouches for the TLS key."""
    value = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_oid(BINDING_OID).value
    assert isinstance(value, x509.UnrecognizedExtension)
    return value.value


def certificate(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, value: bytes | None) -> bytes:
    """A self-signed certificate of any key, with any value (or none) where the vouching belongs."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, TLS_NAME)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    if value is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(BINDING_OID, value), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_the_coordinators_own_certificate_yields_its_key() -> None:
    assert check_certificate(TLS.certificate_pem, PINNED) == COORDINATOR.public


def test_another_coordinators_certificate_is_refused() -> None:
    with pytest.raises(PinError, match="another coordinator") as caught:
        check_certificate(OTHER_TLS.certificate_pem, PINNED)
    assert caught.value.advice


def test_the_binding_cannot_be_copied_onto_another_tls_key() -> None:
    """The attack that pinning is against: somebody in between who shows the coordinator's words with his own key."""
    forged = certificate(ec.generate_private_key(ec.SECP256R1()), binding(TLS.certificate_pem))
    with pytest.raises(PinError, match="does not vouch"):
        check_certificate(forged, PINNED)


def test_a_key_of_another_kind_is_refused() -> None:
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(PinError, match="P-256"):
            check_certificate(certificate(key, binding(TLS.certificate_pem)), PINNED)


def test_a_certificate_that_nobody_vouches_for_is_refused() -> None:
    with pytest.raises(PinError, match="no Folkmoot coordinator"):
        check_certificate(certificate(ec.generate_private_key(ec.SECP256R1()), None), PINNED)


@given(st.binary(max_size=120))
def test_any_other_binding_is_refused(value: bytes) -> None:
    with pytest.raises(PinError):
        check_certificate(certificate(KEY, value), PINNED)


KEY = ec.generate_private_key(ec.SECP256R1())


@given(st.integers(0, 98 * 8 - 1))
def test_a_binding_with_any_bit_flipped_is_refused(bit: int) -> None:
    key = serialization.load_pem_private_key(TLS.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    value = bytearray(binding(TLS.certificate_pem))
    assert len(value) == 98
    assert check_certificate(certificate(key, bytes(value)), PINNED) == COORDINATOR.public
    value[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PinError):
        check_certificate(certificate(key, bytes(value)), PINNED)


def test_a_weak_coordinator_key_is_refused_even_when_pinned() -> None:
    weak = (1).to_bytes(32, "little")
    value = bytes([4, 96]) + weak + weak + bytes(32)
    with pytest.raises(PinError, match="small order"):
        check_certificate(certificate(KEY, value), fingerprint(weak))


def test_exactly_one_certificate_is_taken() -> None:
    """The text becomes the channel's roots: a second certificate in it would be a second pin."""
    for text in (
        TLS.certificate_pem + OTHER_TLS.certificate_pem,
        OTHER_TLS.certificate_pem + TLS.certificate_pem,
        TLS.certificate_pem + b"text",
        b"text\n" + TLS.certificate_pem,
        TLS.certificate_pem.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"),
        TLS.key_pem + TLS.certificate_pem,
        b"",
    ):
        with pytest.raises(PinError, match="one certificate"):
            check_certificate(text, PINNED)


def test_an_endless_certificate_is_refused() -> None:
    padded = TLS.certificate_pem + b"\n" * MAX_CERTIFICATE_BYTES
    with pytest.raises(PinError):
        check_certificate(padded, PINNED)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_no_certificate(data: bytes) -> None:
    for text in (data, ssl.DER_cert_to_PEM_cert(data).encode()):
        with pytest.raises(PinError):
            check_certificate(text, PINNED)


DER = ssl.PEM_cert_to_DER_cert(TLS.certificate_pem.decode())


@given(st.integers(0, len(DER) - 1), st.integers(1, 255))
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_a_damaged_certificate_raises_nothing_else(place: int, mask: int) -> None:
    damaged = bytearray(DER)
    damaged[place] ^= mask
    try:
        key = check_certificate(ssl.DER_cert_to_PEM_cert(bytes(damaged)).encode(), PINNED)
    except PinError:
        return
    assert key == COORDINATOR.public, (
        "what the identity did not sign may change; the handshake answers for it"
    )


def test_a_name_of_a_kind_that_the_library_does_not_know_is_refused() -> None:
    dns_name, x400_address = b"\x82\x14", b"\xa3\x14"
    assert dns_name + TLS_NAME.encode() in DER
    damaged = DER.replace(dns_name + TLS_NAME.encode(), x400_address + TLS_NAME.encode())
    with pytest.raises(PinError, match="cannot be read"):
        check_certificate(ssl.DER_cert_to_PEM_cert(damaged).encode(), PINNED)


def test_a_certificate_can_sign_no_other() -> None:
    extensions = x509.load_pem_x509_certificate(TLS.certificate_pem).extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_tls_files_are_the_owners_alone_and_stay(tmp_path: Path) -> None:
    folder = tmp_path / "operator"
    first = TlsIdentity.load_or_create(folder, COORDINATOR)
    assert stat.S_IMODE((folder / TLS_FILE).stat().st_mode) == 0o600
    assert TlsIdentity.load_or_create(folder, COORDINATOR) == first
    assert check_certificate(first.certificate_pem, PINNED) == COORDINATOR.public


def test_creators_at_once_agree_on_one_tls_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as threads:
        found = set(threads.map(lambda _: TlsIdentity.load_or_create(tmp_path, COORDINATOR), range(12)))
    assert len(found) == 1


def test_another_identitys_tls_file_is_refused(tmp_path: Path) -> None:
    TlsIdentity.load_or_create(tmp_path, OTHER)
    with pytest.raises(TlsFileError, match="does not fit this identity") as caught:
        TlsIdentity.load_or_create(tmp_path, COORDINATOR)
    assert "delete" in caught.value.advice


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 100,
        TLS.key_pem,
        TLS.certificate_pem,
        TLS.certificate_pem + TLS.key_pem,
        OTHER_TLS.key_pem + TLS.certificate_pem,
        TLS.key_pem[:-40] + TLS.certificate_pem,
        TLS.key_pem + TLS.certificate_pem[:-60],
    ],
)
def test_a_damaged_tls_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / TLS_FILE
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(TlsFileError) as caught:
        TlsIdentity.load_or_create(tmp_path, COORDINATOR)
    assert str(path) in str(caught.value) and caught.value.advice


def test_a_tls_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    TlsIdentity.load_or_create(tmp_path, COORDINATOR)
    (tmp_path / TLS_FILE).chmod(0o644)
    with pytest.raises(SecretFileError):
        TlsIdentity.load_or_create(tmp_path, COORDINATOR)


def test_a_tls_identity_prints_no_secret() -> None:
    assert "PRIVATE" not in repr(TLS)


def test_trust_needs_neither_torch_nor_the_wire(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from folkmoot.trust import enrolment, invite, keys, secret_files, statements, tickets, tls\n"
        "sys.exit(', '.join(m for m in ('torch', 'numpy', 'grpc', 'google.protobuf') if m in sys.modules) or None)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
