"""What a command says, and where.

Guarantees: results go to standard output, all else to standard error; with `--json`, standard output holds one JSON object
and nothing else, whatever libraries print meanwhile.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any


def emit(text: str = "") -> None:
    """One line of the result."""
    print(text, flush=True)


def emit_json(document: Any) -> None:
    """The result as one JSON object."""
    print(json.dumps(document, ensure_ascii=False), flush=True)


def say(text: str = "") -> None:
    """One line about how things go; where it cannot be written, the command goes on without."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def error_line(error: BaseException) -> str:
    """An error as one line, whatever its text holds."""
    return "error: " + " ".join(str(error).split())


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Sends what others print to standard error while it lasts."""
    with redirect_stdout(sys.stderr):
        yield
