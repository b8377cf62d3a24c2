"""How commands talk to the node that runs on a state folder: one line of JSON each way, through a socket in that folder.

Guarantees: only the owner of the state folder can open the socket; what comes is bounded, parsed, and only then used; an error on
the other side comes out here as one of ours, with its advice and exit code; where no node runs, that is said.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ..errors import FolkmootError, UnavailableError, UsageError, WireError

SOCKET_FILE: Final = "control.sock"
MAX_REQUEST_BYTES: Final = 64 << 10
MAX_REPLY_BYTES: Final = 1 << 20
ANSWER_TIMEOUT_S: Final = 30.0
LONGEST_PATH: Final = 100
"""Bytes of a socket's path that every system takes."""


class NoNodeRunsError(UnavailableError):
    """No node runs on the state folder."""


class ControlError(FolkmootError):
    """The running node refused."""


class NotYoursError(UsageError):
    """The node belongs to another user of this machine."""


class ControlFormError(WireError):
    """What came through the socket is not what it should be."""


@contextlib.contextmanager
def socket_path(state: Path) -> Iterator[str]:
    """The path of a folder's socket, short enough for the system while it is used."""
    path = state / SOCKET_FILE
    if len(os.fsencode(path)) <= LONGEST_PATH or not Path("/proc/self/fd").is_dir():
        yield str(path)
        return
    descriptor = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_FILE}"
    finally:
        os.close(descriptor)


def ask(state: Path, verb: str, *, timeout_s: float | None = ANSWER_TIMEOUT_S, **arguments: Any) -> Any:
    """Asks the node that runs on a state folder, and returns its answer.

    Args:
        state: The state folder.
        verb: What it is to do.
        timeout_s: How long to wait for the answer; None for as long as it takes.
        arguments: What else it should know.

    Raises:
        NoNodeRunsError: when none runs there, or it ended before it answered.
        NotYoursError: when this user may not ask it.
        ControlError: when it refuses.
        ControlFormError: when what it says cannot be read.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            with socket_path(state) as path:
                connection.connect(path)
            connection.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as answers:
                answer = answers.readline(MAX_REPLY_BYTES)
        except TimeoutError:
            raise NoNodeRunsError(
                f"the node on {state} does not answer", advice="look at its log, or start it again"
            ) from None
        except PermissionError as error:
            raise NotYoursError(
                f"the node on {state} is another user's",
                advice=f"ask it as that user: sudo -u {_owner(state)} folkmoot node ...",
            ) from error
        except OSError as error:
            raise _nobody(state) from error
    return _read(answer, state)


def runs(state: Path) -> bool:
    """Whether a node runs on a state folder and takes orders."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            with socket_path(state) as path:
                connection.connect(path)
        except OSError:
            return False
        return True


def _owner(state: Path) -> str:
    """Who has the folder, as far as this user can see."""
    try:
        return state.owner()
    except (OSError, KeyError):
        return "USER"


def _nobody(state: Path) -> NoNodeRunsError:
    return NoNodeRunsError(
        f"no node runs on the state folder {state}",
        advice="start it with `folkmoot node start`, or name the folder of the one that runs: --state DIR",
    )


def _read(answer: bytes, state: Path) -> Any:
    if not answer:
        raise NoNodeRunsError(f"the node on {state} ended before it answered", advice="look at its log")
    try:
        document = json.loads(answer)
        if "error" not in document:
            return document["answer"]
        error = document["error"]
        refusal = ControlError(str(error["message"]), advice=str(error["advice"]))
        refusal.exit_code = int(error["exit_code"])
    except (ValueError, TypeError, KeyError) as fault:
        raise ControlFormError(
            f"what answers on {state / SOCKET_FILE} is no node of this version", advice="start the node again"
        ) from fault
    raise refusal
