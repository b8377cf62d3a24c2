"""`folkmoot node`: contribute this machine to networks.

Guarantees: an invite can be handed over unseen by others; joining while a node runs on the same state folder lets that node join,
and ends.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..logs import configure_logging
from .daemon import end_with_parent, run_until_stopped
from .node_control import drain, leave, pause, resume, status
from .node_doctor import doctor
from .node_init import init
from .node_options import (
    AsJson,
    Disk,
    Download,
    Format,
    Memory,
    Name,
    PublicName,
    State,
    Threads,
    Upload,
    Weights,
    WorkHours,
    given,
)
from .terminal import emit, emit_json, say

MAX_INVITE_CHARACTERS = 4096
"""Of standard input; no invite has as many."""

app = typer.Typer(help="Contribute this machine to a network.")
app.command("init")(init)
app.command("doctor")(doctor)


class NoInviteError(UsageError):
    """Standard input held no invite."""


class NodeRunsError(UsageError):
    """The node that runs cannot be given other limits."""


class LimitsLaterError(UsageError):
    """Limits were given where nothing is started that would keep them."""


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
    called: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="NAME", help="What you call this coordinator; its host.", show_default=False
        ),
    ] = None,
    later: Annotated[
        bool, typer.Option("--later", help="Remember it, and leave computing to `folkmoot node start`.")
    ] = False,
    memory: Memory = None,
    disk: Disk = None,
    threads: Threads = None,
    download: Download = None,
    upload: Upload = None,
    hours: WorkHours = None,
    state: State = None,
    name: Name = None,
    public_name: PublicName = None,
    weights: Weights = None,
    log_format: Format = None,
) -> None:
    """Join a network, and compute for it, and for those that were joined before, until stopped."""
    end_with_parent()
    if invite == "-":
        invite = sys.stdin.readline(MAX_INVITE_CHARACTERS).strip()
        if not invite:
            raise NoInviteError(
                "standard input holds no invite", advice="pipe it in, or give it as the argument"
            )
    limits = given(memory, disk, threads, download, upload, hours, name, public_name, weights)
    from ..node.control import ask, runs
    from ..node.settings import NodeSettings
    from ..trust.invite import Invite

    settings = NodeSettings.load(invite=invite, state_dir=state, log_format=log_format, **limits)
    Invite.parse(invite)
    if runs(settings.state_dir):
        if limits:
            raise NodeRunsError(
                f"a node runs on {settings.state_dir} already, within the limits that it was started with",
                advice="join without limits, or stop it first",
            )
        emit(f"joined {ask(settings.state_dir, 'join', invite=invite, name=called)}")
        say("the node that runs computes for it as well")
    elif later:
        if limits:
            raise LimitsLaterError(
                "--later remembers a coordinator, not limits",
                advice="give them to `folkmoot node start`, or write them down with `folkmoot node init`",
            )
        from ..node.joined import remember

        emit(f"joined {remember(settings.state_dir, invite, called).name}")
    else:
        _run(settings, called)


@app.command()
def start(
    memory: Memory = None,
    disk: Disk = None,
    threads: Threads = None,
    download: Download = None,
    upload: Upload = None,
    hours: WorkHours = None,
    state: State = None,
    name: Name = None,
    public_name: PublicName = None,
    weights: Weights = None,
    log_format: Format = None,
) -> None:
    """Compute for all networks that were joined, until stopped."""
    end_with_parent()
    limits = given(memory, disk, threads, download, upload, hours, name, public_name, weights)
    from ..node.settings import NodeSettings

    _run(NodeSettings.load(state_dir=state, log_format=log_format, **limits), None)


def _run(settings: Any, called: str | None) -> None:
    from ..node.process import run

    configure_logging(settings.log_format)
    run_until_stopped(run(settings, called))


app.command("leave")(leave)
app.command("pause")(pause)
app.command("resume")(resume)
app.command("drain")(drain)
app.command("status")(status)


@app.command()
def receipts(
    state: State = None,
    url: Annotated[
        str | None,
        typer.Option(help="The coordinator's API: look receipts up in its public log.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the coordinator accepted of this machine's work, and check that it is on public record."""
    from ..client.log_reader import LogReader
    from ..node.settings import NodeSettings
    from ..trust.log_visit import most_bytes
    from .receipts import show

    folder = NodeSettings.load(state_dir=state).state_dir
    printer = emit_json if as_json else None
    if url is None:
        held = show(folder, None, emit, printer)
    else:
        with LogReader(url) as reader:
            held = show(folder, lambda path: reader.read(path, most_bytes(path)), emit, printer)
    raise typer.Exit(0 if held else 1)
