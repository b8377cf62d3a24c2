"""The coordinator's secret projections of a layer.

Guarantees: they follow from (secret, epoch, manifest, layer, sizes) and nothing else, and are equal to the last bit
on every machine and with every version of numpy: HKDF-SHA256 (RFC 5869) gives a key, ChaCha20 under it a stream of
bytes, and each number is the sum of twelve 16-bit integers of the stream, centred and scaled by a power of two, so no
library's logarithm or cosine has a say. That sum has mean 0, variance 1 to 2^-32, and is so near to Gaussian that
what an audit measures by it differs by nothing that shows (excess kurtosis -0.1; it never exceeds 6). Without the
secret a projection is not to be told from random; a new epoch gives new ones.

Letters: k projections, H hidden size, I intermediate size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import UsageError
from .statements import DIGEST_BYTES, domain_tag

DEFAULT_COUNT: Final = 8
MAX_COUNT: Final = 64
MAX_WIDTH: Final = 1 << 17
SECRET_BYTES: Final = 32

_TAG: Final = domain_tag("projections")
_INFO: Final = struct.Struct(f">32sQ{DIGEST_BYTES}sIIII")
_TERMS: Final = 12
_UNIT: Final = 65536.0
_MEAN: Final = _TERMS * 65535 // 2


class ProjectionsError(UsageError):
    """Projections cannot be made so."""


@dataclass(frozen=True)
class Projections:
    """The secret vectors of one layer in one epoch.

    Attributes:
        identity: 32 bytes that name them and give nothing away: sketches carry it, so that none is read with others' vectors.
        inner: [k, I] float32, for gate and up.
        outer: [k, H] float32, for the output.
    """

    identity: bytes
    inner: npt.NDArray[np.float32] = field(repr=False)
    outer: npt.NDArray[np.float32] = field(repr=False)

    @property
    def count(self) -> int:
        """k."""
        return len(self.inner)


def derive_projections(
    secret: bytes,
    epoch: int,
    manifest: bytes,
    layer: int,
    hidden: int,
    intermediate: int,
    count: int = DEFAULT_COUNT,
) -> Projections:
    """The projections of a layer.

    Args:
        secret: 32 bytes that never leave the coordinator.
        epoch: Counts up; a new one makes what leaked of the old worthless.
        manifest: Digest of the model's manifest.
        layer: Index of the decoder layer.
        hidden, intermediate: H and I.
        count: k.

    Raises:
        ProjectionsError: when a part has the wrong width or range.
    """
    if len(secret) != SECRET_BYTES or len(manifest) != DIGEST_BYTES:
        raise ProjectionsError(f"the secret has {SECRET_BYTES} bytes, a manifest's digest {DIGEST_BYTES}")
    if not 0 < count <= MAX_COUNT or not 0 < hidden <= MAX_WIDTH or not 0 < intermediate <= MAX_WIDTH:
        raise ProjectionsError(f"there are no {count} projections of an expert of {hidden} x {intermediate}")
    try:
        info = _INFO.pack(_TAG, epoch, manifest, layer, hidden, intermediate, count)
    except struct.error as error:
        raise ProjectionsError(f"epoch {epoch} or layer {layer} is out of range ({error})") from None
    derived = HKDF(algorithm=SHA256(), length=64, salt=None, info=info).derive(secret)
    numbers = _gaussians(derived[:32], count * (intermediate + hidden))
    inner, outer = np.split(numbers, [count * intermediate])
    return Projections(derived[32:], inner.reshape(count, intermediate), outer.reshape(count, hidden))


def _gaussians(key: bytes, amount: int) -> npt.NDArray[np.float32]:
    """Numbers of mean 0 and variance 1: the key stream's 16-bit little-endian integers, twelve to a number."""
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(2 * _TERMS * amount))
    sums = np.frombuffer(stream, "<u2").reshape(amount, _TERMS).sum(axis=1, dtype=np.int32)
    return np.asarray((sums - _MEAN) / _UNIT, np.float32)
