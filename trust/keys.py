"""Ed25519 identities: the keys that nodes and coordinators are.

Guarantees: a `VerifyingKey` exists only for the canonical encoding of a curve point that is not of small order, so no
constant signature fits all messages under it; an empty signature is an invalid signature; a private key leaves memory
only into a file that its owner alone can read, and is printed by nothing.

Signatures are made and checked by libsodium: it takes half as long as OpenSSL, which a coordinator feels at each result, and
refuses points of small order besides.

Sources: RFC 8032; small-order points as in "Taming the many EdDSAs" (Chalkias, Garillot, Nikolaenko, 2020).
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Final

from nacl import bindings
from nacl.exceptions import BadSignatureError as NotSignedError

from ..errors import TrustError
from ..ids import NodeId
from .secret_files import create_secret_file, read_secret_file

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_HEADER: Final = "folkmoot identity 1"
_PRIME: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _PRIME) % _PRIME
_SIGN_BIT: Final = 1 << 255
_SMALL_ORDER_Y: Final = frozenset(
    {
        0,
        1,
        _PRIME - 1,
        int.from_bytes(
            bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
        ),
        int.from_bytes(
            bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
        ),
    }
)
"""The y coordinates of the eight points whose order divides the cofactor; sign bit cleared."""


class KeyFileError(TrustError):
    """A file that should hold an identity holds something else."""


class WeakKeyError(TrustError):
    """Bytes that claim to be a public key are not one that can be trusted to bind its owner."""


class SignatureError(TrustError):
    """A signature does not hold."""


class MissingSignatureError(SignatureError):
    """There is no signature where there must be one."""


class BadSignatureError(SignatureError):
    """The signature is not this key's over this message."""


def fingerprint(public: bytes) -> bytes:
    """SHA-256 of a public key, 32 bytes: what an invite pins."""
    return hashlib.sha256(public).digest()


def node_id(public: bytes) -> NodeId:
    """The id of the node that has this public key."""
    return NodeId(public.hex())


class VerifyingKey:
    """The public half of someone's identity.

    Args:
        raw: 32 bytes as RFC 8032 encodes a public key.

    Raises:
        WeakKeyError: when the length is wrong, or the encoding is not canonical, no curve point, or of small order.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        _check_point(raw)
        self.raw: Final = bytes(raw)

    def verify(self, signature: bytes, message: bytes) -> None:
        """Returns when the signature is this key's over the message.

        Raises:
            MissingSignatureError: when the signature is empty.
            BadSignatureError: when it is anything else than a valid one.
        """
        if not signature:
            raise MissingSignatureError("the signature is missing")
        try:
            if len(signature) == SIGNATURE_BYTES:
                bindings.crypto_sign_open(signature + message, self.raw)
                return
        except NotSignedError:
            pass
        raise BadSignatureError(
            f"a signature of {len(signature)} bytes is not key {self.raw.hex()[:12]}'s over this message"
        )

    @property
    def node_id(self) -> NodeId:
        """The id of the node that has this key."""
        return node_id(self.raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyingKey) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"VerifyingKey({self.raw.hex()})"


def _check_point(raw: bytes) -> None:
    if len(raw) != KEY_BYTES:
        raise WeakKeyError(f"a public key has {KEY_BYTES} bytes, not {len(raw)}")
    y = int.from_bytes(raw, "little") & ~_SIGN_BIT
    if y >= _PRIME:
        raise WeakKeyError(f"the public key {raw.hex()} is not canonically encoded")
    if y in _SMALL_ORDER_Y:
        raise WeakKeyError(f"the public key {raw.hex()} is of small order")
    x_squared = (y * y - 1) * pow(_D * y * y + 1, -1, _PRIME) % _PRIME
    if pow(x_squared, (_PRIME - 1) // 2, _PRIME) != 1:
        raise WeakKeyError(f"the public key {raw.hex()} is no point of the curve")


class Identity:
    """Someone's private key: a node's or a coordinator's.

    Args:
        seed: The 32 secret bytes of RFC 8032.
    """

    __slots__ = ("_secret", "node_id", "public")

    def __init__(self, seed: bytes) -> None:
        public, self._secret = bindings.crypto_sign_seed_keypair(seed)
        self.public: Final[bytes] = public
        self.node_id: Final[NodeId] = node_id(self.public)

    @classmethod
    def generate(cls) -> Identity:
        """A new identity from the system's randomness."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """The identity kept in a file; a new one is made, and kept there with mode 0600, when there is no such file.

        Raises:
            SecretFileError: when the file cannot be read or written, or others may read it.
            DiskFullError: when the disk has no room for it.
            KeyFileError: when its content is not an identity.
        """
        content = read_secret_file(path)
        if content is None:
            content = create_secret_file(path, cls.generate()._encode())
        return cls._decode(content, path)

    def sign(self, message: bytes) -> bytes:
        """The signature over the message, 64 bytes."""
        return bindings.crypto_sign(message, self._secret)[:SIGNATURE_BYTES]

    @property
    def verifying_key(self) -> VerifyingKey:
        """The public half, as others see it."""
        return VerifyingKey(self.public)

    def _encode(self) -> bytes:
        """Three lines: header, seed, public key; the last makes damage to the second visible."""
        return f"{_HEADER}\n{self._secret[:KEY_BYTES].hex()}\n{self.public.hex()}\n".encode()

    @classmethod
    def _decode(cls, content: bytes, path: Path) -> Identity:
        advice = "restore it from a copy, or delete it to start again with a new key"
        lines = content.decode("ascii", errors="replace").splitlines()
        if len(lines) != 3 or lines[0] != _HEADER:
            raise KeyFileError(f"the key file {path} holds no identity", advice=advice)
        try:
            seed, public = bytes.fromhex(lines[1]), bytes.fromhex(lines[2])
        except ValueError:
            raise KeyFileError(f"the key file {path} is damaged: not hexadecimal", advice=advice) from None
        if len(seed) != KEY_BYTES:
            raise KeyFileError(f"the key file {path} is damaged: wrong length", advice=advice)
        identity = cls(seed)
        if identity.public != public:
            raise KeyFileError(f"the key file {path} is damaged: its halves do not fit", advice=advice)
        if identity._encode() != content:
            raise KeyFileError(f"the key file {path} is damaged: it was not written so", advice=advice)
        return identity

    def __repr__(self) -> str:
        return f"Identity({self.node_id})"
