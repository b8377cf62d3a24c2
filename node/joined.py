"""The coordinators that a node has joined, as its state folder remembers them.

Guarantees: nobody but the owner can read the file, for it holds join secrets; it appears whole or not at all; each coordinator, told
by its key, is in it once, under a name that no other has; joining it again keeps the name and takes the newer invite. Reading
needs no lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from ..disk import disk_errors
from ..errors import UsageError
from ..state_lock import StateError, StateLock
from ..trust.invite import Invite
from ..trust.secret_files import MAX_SECRET_FILE_BYTES, SecretFileError, read_secret_file

JOINED_FILE: Final = "coordinators.json"
MOST_COORDINATORS: Final = 32
MAX_NAME: Final = 64


class UnknownCoordinatorError(UsageError):
    """No coordinator of this name was joined."""


class JoinError(UsageError):
    """A coordinator cannot be joined under this name, or not one more."""


@dataclass(frozen=True)
class Joined:
    """One coordinator.

    Attributes:
        name: What the contributor calls it.
        invite: The last invite that was given.
        joined_unix_s: When it was joined first.
    """

    name: str
    invite: str
    joined_unix_s: int

    @property
    def key(self) -> bytes:
        """The fingerprint of its key: who it is."""
        return Invite.parse(self.invite).fingerprint

    @property
    def address(self) -> str:
        """Where it is."""
        return Invite.parse(self.invite).address


class JoinedBook:
    """The list in one state folder."""

    def __init__(self, state: Path) -> None:
        self.path = state / JOINED_FILE

    def all(self) -> tuple[Joined, ...]:
        """Those that are joined, the oldest first.

        Raises:
            StateError: when the file is damaged.
            TrustError: when others may read it.
        """
        content = read_secret_file(self.path)
        if content is None:
            return ()
        try:
            found = tuple(
                Joined(str(entry["name"]), str(entry["invite"]), int(entry["joined_unix_s"]))
                for entry in json.loads(content)
            )
            for one in found:
                Invite.parse(one.invite)
        except (ValueError, TypeError, KeyError, UsageError) as error:
            raise StateError(
                f"{self.path} is damaged", advice="delete it, and join the coordinators again"
            ) from error
        return found

    def add(self, invite: str, name: str | None = None) -> Joined:
        """Remembers a coordinator; one that is known keeps its name, unless another is given.

        Raises:
            InviteError: when the invite cannot be read.
            JoinError: when the name is another's, or there are too many.
            DiskError, DiskFullError: when it cannot be kept.
        """
        key, joined = Invite.parse(invite).fingerprint, self.all()
        others = [one for one in joined if one.key != key]
        known = next((one for one in joined if one.key == key), None)
        taken = {one.name for one in others}
        if name is not None and (name in taken or not 0 < len(name) <= MAX_NAME or not name.isprintable()):
            raise JoinError(
                f"another coordinator is called {name!r}" if name in taken else f"{name!r} is no name",
                advice="give it another name: --as NAME",
            )
        if len(others) >= MOST_COORDINATORS:
            raise JoinError(
                f"{MOST_COORDINATORS} coordinators are joined already",
                advice="leave one: folkmoot node leave NAME",
            )
        chosen = name or (known.name if known else _free_name(Invite.parse(invite).host, taken))
        one = Joined(chosen, invite, known.joined_unix_s if known else int(time.time()))
        if one != known:
            self._write([one if other.key == key else other for other in joined] + ([] if known else [one]))
        return one

    def remove(self, name: str) -> Joined:
        """Forgets a coordinator, by its name or its address.

        Raises:
            UnknownCoordinatorError: when there is none, or more than one.
            DiskError, DiskFullError: when that cannot be kept.
        """
        joined = self.all()
        one = find(joined, name)
        self._write([other for other in joined if other != one])
        return one

    def _write(self, joined: list[Joined]) -> None:
        data = json.dumps([asdict(one) for one in joined], indent=1).encode()
        if len(data) > MAX_SECRET_FILE_BYTES:
            raise SecretFileError(f"{self.path} would be too large", advice="leave a coordinator")
        draft = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        with disk_errors(self.path):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(descriptor)
                draft.replace(self.path)
            finally:
                draft.unlink(missing_ok=True)


def remember(state: Path, invite: str, name: str | None = None) -> Joined:
    """Remembers a coordinator while no node runs on the state folder.

    Raises:
        StateInUseError: when one does.
        InviteError, JoinError: when it cannot be joined.
    """
    with contextlib.closing(StateLock(state, "node")):
        return JoinedBook(state).add(invite, name)


def forget(state: Path, name: str) -> Joined:
    """Forgets a coordinator while no node runs on the state folder.

    Raises:
        StateInUseError: when one does.
        UnknownCoordinatorError: when none is called so.
    """
    with contextlib.closing(StateLock(state, "node")):
        return JoinedBook(state).remove(name)


def find(joined: tuple[Joined, ...], name: str) -> Joined:
    """The one of this name, or else of this address. Raises UnknownCoordinatorError."""
    meant = [one for one in joined if one.name == name] or [one for one in joined if one.address == name]
    if len(meant) == 1:
        return meant[0]
    known = ", ".join(one.name for one in joined) or "none"
    raise UnknownCoordinatorError(
        f"no coordinator called {name!r} was joined", advice=f"name one of those that were: {known}"
    )


def _free_name(host: str, taken: set[str]) -> str:
    """The host, with a number where it is taken."""
    host, number, name = host[: MAX_NAME - 4], 1, host[:MAX_NAME]
    while name in taken:
        number += 1
        name = f"{host}-{number}"
    return name
