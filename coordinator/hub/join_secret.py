"""The join secret that invites carry.

Guarantees: made once for a state folder and kept there with mode 0600, so invites stay good when the coordinator restarts.
"""

from __future__ import annotations

from pathlib import Path

from ...trust.enrolment import JOIN_SECRET_BYTES
from ...trust.secret_files import load_or_create_secret

JOIN_SECRET_FILE = "join.secret"


def load_or_create_join_secret(folder: Path) -> bytes:
    """The folder's join secret, 16 bytes; a new one is made when there is none.

    Raises:
        SecretFileError: when the file cannot be read or written, is damaged, or others may read it.
    """
    return load_or_create_secret(
        folder / JOIN_SECRET_FILE, JOIN_SECRET_BYTES, "a new one is made, and old invites end"
    )
