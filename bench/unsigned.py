"""`folkmoot` without signatures: what the benchmark of trust's cost measures against, and nothing else.

Guarantees: only a process that was started as this module behaves so; nothing of the package can be told to. Results are not
signed, their signatures not checked, and their tensors not digested; everything else is as it always is.
"""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any, Final

from ..cli import main
from ..trust import statements
from ..trust.keys import Identity, VerifyingKey
from ..trust.statements import DIGEST_BYTES, domain_tag

PROGRAM: Final = "folkmoot.bench.unsigned"
_RESULT: Final = domain_tag("result")
_NOT_DIGESTED: Final = (domain_tag("tensor"), domain_tag("routing"), domain_tag("task"))


class _NoDigest:
    """In the place of a SHA-256."""

    def update(self, _: object) -> None:
        """Does nothing."""

    def digest(self) -> bytes:
        """The same for all."""
        return bytes(DIGEST_BYTES)


def leave_out() -> None:
    """From now on this process neither signs results nor checks them."""
    signed, verified = Identity.sign, VerifyingKey.verify

    def sign(self: Identity, message: bytes) -> bytes:
        return bytes(64) if message.startswith(_RESULT) else signed(self, message)

    def verify(self: VerifyingKey, signature: bytes, message: bytes) -> None:
        if not message.startswith(_RESULT):
            verified(self, signature, message)

    def sha256(data: bytes = b"") -> Any:
        return _NoDigest() if data.startswith(_NOT_DIGESTED) else hashlib.sha256(data)

    Identity.sign = sign  # type: ignore[method-assign]
    VerifyingKey.verify = verify  # type: ignore[method-assign]
    statements.hashlib = SimpleNamespace(sha256=sha256)  # type: ignore[assignment,attr-defined]


if __name__ == "__main__":
    leave_out()
    main.main()
