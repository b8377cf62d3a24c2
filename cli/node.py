"""`folkmoot node`: contribute this machine to a network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..logs import configure_logging
from .daemon import end_with_parent, run_until_stopped
from .folder_option import folder
from .terminal import emit, emit_json

MAX_INVITE_CHARACTERS = 4096
"""Of standard input; no invite has as many."""

app = typer.Typer(help="Contribute this machine to a network.")


class NoInviteError(UsageError):
    """Standard input held no invite."""


@app.callback()
def group() -> None:
    """Contribute this machine to a network."""


@app.command()
def join(
    invite: Annotated[
        str,
        typer.Argument(
            help="What the coordinator printed; - reads it from standard input, unseen by others."
        ),
    ],
    memory: Annotated[
        str | None,
        typer.Option(
            help="Most memory for experts, like 4GiB, if there is so much; half of what is free.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads to compute with; the physical cores.", show_default=False),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            parser=folder,
            metavar="PATH",
            help="Where key and experts are kept; ~/.folkmoot/node.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What people call this node.", show_default=False)] = None,
) -> None:
    """Join a network and compute for it until stopped."""
    end_with_parent()
    from ..node.daemon import run
    from ..node.settings import NodeSettings
    from ..trust.invite import Invite

    if invite == "-":
        invite = sys.stdin.readline(MAX_INVITE_CHARACTERS).strip()
        if not invite:
            raise NoInviteError(
                "standard input holds no invite", advice="pipe it in, or give it as the argument"
            )
    settings = NodeSettings.load(
        invite=invite, memory_bytes=memory, threads=threads, state_dir=state, name=name
    )
    Invite.parse(invite)
    configure_logging(settings.log_format)
    run_until_stopped(run(settings))


@app.command()
def receipts(
    state: Annotated[
        Path | None, typer.Option(help="The node's state folder; ~/.folkmoot/node.", show_default=False)
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="The coordinator's API: look receipts up in its public log.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Show what the coordinator accepted of this machine's work, and check that it is on public record."""
    from ..client.log_reader import LogReader
    from ..home import folkmoot_home
    from ..trust.log_visit import most_bytes
    from .receipts import show

    folder = state or folkmoot_home() / "node"
    printer = emit_json if as_json else None
    if url is None:
        held = show(folder, None, emit, printer)
    else:
        with LogReader(url) as reader:
            held = show(folder, lambda path: reader.read(path, most_bytes(path)), emit, printer)
    raise typer.Exit(0 if held else 1)
