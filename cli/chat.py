"""`folkmoot chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .ask import Url


def chat(
    url: Url = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, max=2, help="0 gives the same answers each time.", show_default=False),
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="What the model is told first.", show_default=False)
    ] = None,
) -> None:
    """Talk with a network; /quit ends it, Ctrl-C stops an answer."""
    from ..client import FolkmootClient
    from ..client.chat import TerminalChat

    with FolkmootClient(url) as client:
        client.health()
        TerminalChat(
            client,
            read_line=_read_line,
            output=sys.stdout,
            notices=sys.stderr,
            temperature=temperature,
            system=system,
        ).run()


def _read_line(prompt: str) -> str:
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line
    import readline  # noqa: F401 - gives `input` its editing and history

    return input(prompt)
