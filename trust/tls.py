"""Pinned TLS: a coordinator's TLS key, and how a node knows it for the coordinator's.

Guarantees: `check_certificate` returns only when the text is exactly one certificate of a P-256 key, and the Ed25519 key
that the invite pins has signed the SHA-256 of that key's SubjectPublicKeyInfo. A channel whose only root is that
certificate reaches only who holds the TLS key; no authority, clock or DNS name is believed.

Why two keys: gRPC's TLS refuses Ed25519 certificates, so the TLS key is P-256 and the identity vouches for it in an
extension of the self-signed certificate.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import TrustError, UnavailableError
from .keys import KEY_BYTES, SIGNATURE_BYTES, Identity, VerifyingKey
from .keys import fingerprint as fingerprint_of
from .secret_files import create_secret_file, read_secret_file
from .statements import tls_statement

TLS_NAME: Final = "coordinator.folkmoot"
"""The only name in a coordinator's certificate: what a channel's `grpc.ssl_target_name_override` must be."""

MAX_CERTIFICATE_BYTES: Final = 16 << 10
TLS_FILE: Final = "tls.pem"

_BINDING_OID: Final = x509.ObjectIdentifier("2.25.225304971038170583911622853904105563470")
_BINDING_HEADER: Final = bytes([0x04, KEY_BYTES + SIGNATURE_BYTES])
"""DER of an OCTET STRING: an extension's value is itself DER."""
_ONE_CERTIFICATE: Final = re.compile(
    rb"\s*-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*"
)
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""All that the library raises on a certificate that somebody made up."""
_NOT_BEFORE: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""RFC 5280's "no expiry": the pin decides, and a volunteer's clock may be wrong."""


class PinError(TrustError):
    """A certificate is not vouched for by the coordinator that the invite names."""


class TlsFileError(TrustError):
    """The file that should hold a coordinator's TLS key and certificate holds something else."""


class CoordinatorUnreachableError(UnavailableError):
    """Nobody, or nobody that speaks TLS, answers at the coordinator's address."""


@dataclass(frozen=True)
class TlsIdentity:
    """A coordinator's TLS key and the certificate that its Ed25519 identity vouches for; both PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)

    @classmethod
    def generate(cls, identity: Identity) -> TlsIdentity:
        """A new TLS key, vouched for by the identity."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, TLS_NAME)])
        info = hashlib.sha256(_public_key_info(key.public_key())).digest()
        signature = identity.sign(tls_statement(identity.public, info))
        binding = _BINDING_HEADER + identity.public + signature
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_NOT_BEFORE)
            .not_valid_after(_NOT_AFTER)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(TLS_NAME)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.UnrecognizedExtension(_BINDING_OID, binding), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    @classmethod
    def load_or_create(cls, folder: Path, identity: Identity) -> TlsIdentity:
        """The TLS identity kept in a folder; a new one is made, and kept there, when there is none.

        Raises:
            SecretFileError: when the file cannot be read or written, or others may read it.
            DiskFullError: when the disk has no room for it.
            TlsFileError: when it is damaged, or another identity's.
        """
        path = folder / TLS_FILE
        content = read_secret_file(path)
        if content is None:
            new = cls.generate(identity)
            content = create_secret_file(path, new.key_pem + new.certificate_pem)
        return cls._decode(content, path, identity)

    @classmethod
    def _decode(cls, content: bytes, path: Path, identity: Identity) -> TlsIdentity:
        advice = f"delete {path} and start again: a new one is made, and invites stay good"
        marker = content.find(b"-----BEGIN CERTIFICATE-----")
        key_pem, certificate_pem = content[: max(marker, 0)], content[max(marker, 0) :]
        try:
            key = serialization.load_pem_private_key(key_pem, password=None)
            check_certificate(certificate_pem, fingerprint_of(identity.public))
        except PinError as error:
            raise TlsFileError(
                f"the TLS file {path} does not fit this identity ({error.message})", advice=advice
            ) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise TlsFileError(f"the TLS file {path} is damaged", advice=advice) from error
        if key.public_key() != x509.load_pem_x509_certificate(certificate_pem).public_key():
            raise TlsFileError(f"the TLS file {path} is damaged: its halves do not fit", advice=advice)
        return cls(certificate_pem, key_pem)


def check_certificate(pem: bytes, fingerprint: bytes) -> bytes:
    """The coordinator's Ed25519 public key, once the certificate is known to be its own.

    Args:
        pem: One certificate, from whoever answers at the coordinator's address.
        fingerprint: The fingerprint of the coordinator's key, from the invite.

    Raises:
        PinError: when the certificate is not one that the pinned key vouches for.
    """
    key, signature, public_key_info_digest = _read_binding(pem)
    if fingerprint_of(key) != fingerprint:
        raise PinError(
            "another coordinator answers at this address: its key is not the one in the invite",
            advice="ask the operator for a current invite; do not go on with this one",
        )
    try:
        VerifyingKey(key).verify(signature, tls_statement(key, public_key_info_digest))
    except TrustError as error:
        raise PinError(
            f"the coordinator's key does not vouch for this certificate ({error.message})",
            advice="somebody may be in between: try another network, and tell the operator",
        ) from error
    return key


def fetch_certificate(host: str, port: int, timeout_s: float) -> bytes:
    """The certificate of whoever answers there, as PEM; nothing about it is believed until `check_certificate`.

    Raises:
        CoordinatorUnreachableError: when nobody answers in time, or not in TLS.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=TLS_NAME) as secured,
        ):
            certificate = secured.getpeercert(binary_form=True)
    except ssl.SSLError as error:
        raise CoordinatorUnreachableError(
            f"what answers at {where} is no coordinator ({error.reason or 'no TLS'})",
            advice="check the port with the operator",
        ) from error
    except TimeoutError as error:
        raise CoordinatorUnreachableError(
            f"no answer from {where} within {timeout_s:g} s",
            advice="check that the coordinator runs, and that its port is open to the internet",
        ) from error
    except socket.gaierror as error:
        raise CoordinatorUnreachableError(
            f"the host {host} is not known ({error.strerror})",
            advice="check this machine's internet connection, or ask the operator for a current invite",
        ) from error
    except (OSError, UnicodeError) as error:
        raise CoordinatorUnreachableError(
            f"no coordinator answers at {where} ({error})",
            advice="check that the coordinator runs, or ask the operator for a current invite",
        ) from error
    if certificate is None:
        raise CoordinatorUnreachableError(f"{where} shows no certificate", advice="check the port")
    return ssl.DER_cert_to_PEM_cert(certificate).encode()


def _read_binding(pem: bytes) -> tuple[bytes, bytes, bytes]:
    """Key and signature from the certificate's extension, and the digest of its public key info."""
    if len(pem) > MAX_CERTIFICATE_BYTES or not _ONE_CERTIFICATE.fullmatch(pem):
        raise PinError("what was shown is not one certificate", advice="check the port with the operator")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        public_key = certificate.public_key()
        extension = certificate.extensions.get_extension_for_oid(_BINDING_OID).value
    except x509.ExtensionNotFound:
        raise PinError(
            "the certificate is no Folkmoot coordinator's", advice="check the address with the operator"
        ) from None
    except _UNREADABLE as error:
        raise PinError("the certificate cannot be read", advice="check the port with the operator") from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or public_key.curve.name != "secp256r1":
        raise PinError("the certificate's key is not of the curve P-256", advice="tell the operator")
    # A point has more than one encoding that is read; what is vouched for has one.
    info = _public_key_info(public_key)
    if info not in certificate.tbs_certificate_bytes:
        raise PinError(
            "the certificate's key is not written as it was vouched for", advice="tell the operator"
        )
    value = extension.value if isinstance(extension, x509.UnrecognizedExtension) else b""
    if len(value) != len(_BINDING_HEADER) + KEY_BYTES + SIGNATURE_BYTES or value[:2] != _BINDING_HEADER:
        raise PinError("the certificate's vouching extension is damaged", advice="tell the operator")
    key = value[len(_BINDING_HEADER) :][:KEY_BYTES]
    return key, value[-SIGNATURE_BYTES:], hashlib.sha256(info).digest()


def _public_key_info(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
