"""The join secret that invites carry.

Guarantees: made once for a state folder and kept there with mode 0600, so invites stay good when the coordinator restarts.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from ...errors import TrustError
from ...trust.enrolment import JOIN_SECRET_BYTES
from ...trust.secret_files import create_secret_file, read_secret_file

JOIN_SECRET_FILE = "join.secret"


class JoinSecretError(TrustError):
    """The file that should hold the join secret holds something else."""


def load_or_create_join_secret(folder: Path) -> bytes:
    """The folder's join secret, 16 bytes; a new one is made when there is none.

    Raises:
        SecretFileError: when the file cannot be read or written, or others may read it.
        JoinSecretError: when it is damaged.
    """
    path = folder / JOIN_SECRET_FILE
    content = read_secret_file(path)
    if content is None:
        content = create_secret_file(path, secrets.token_hex(JOIN_SECRET_BYTES).encode() + b"\n")
    try:
        secret = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) != JOIN_SECRET_BYTES:
        raise JoinSecretError(
            f"{path} holds no join secret", advice="delete it: a new one is made, and old invites end"
        )
    return secret
