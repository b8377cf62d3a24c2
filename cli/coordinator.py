"""`folkmoot coordinator`: operate a network.

Guarantees: standard output holds only what other programs want to read: one line `api URL` and one line `invite TEXT`, or
with `--json` one object with both; it is there as soon as nodes can join. Coverage is told on standard error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..logs import LogFormat, configure_logging
from ..object_memory import leave_out
from .audit_counts import audits
from .books import credits, history, invite, leaderboard
from .daemon import end_with_parent, run_until_stopped
from .folder_option import folder
from .orders import admit, ban, quarantine
from .terminal import emit, emit_json, say

if TYPE_CHECKING:
    from ..coordinator.app import Coordinator

app = typer.Typer(help="Operate a network.")
app.command("ban")(ban)
app.command("admit")(admit)
app.command("quarantine")(quarantine)
for command in (audits, invite, credits, leaderboard, history):
    app.command(command.__name__)(command)


@app.callback()
def group() -> None:
    """Operate a network."""


@app.command()
def serve(
    model: Annotated[Path, typer.Option(parser=folder, metavar="PATH", help="A prepared model.")],
    host: Annotated[
        str | None,
        typer.Option(help="Where to listen for nodes, 0.0.0.0 for all; 127.0.0.1.", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port for nodes, 0 for a free one; 7440.", show_default=False),
    ] = None,
    public_host: Annotated[
        str | None, typer.Option(help="The name or address that invites hold.", show_default=False)
    ] = None,
    api_host: Annotated[
        str | None, typer.Option(help="Where the HTTP API listens; 127.0.0.1.", show_default=False)
    ] = None,
    api_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the API, 0 for a free one; 8000.", show_default=False),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            parser=folder,
            metavar="PATH",
            help="Where keys and join secret are kept; ~/.folkmoot/operator.",
            show_default=False,
        ),
    ] = None,
    books: Annotated[
        str | None,
        typer.Option(
            help="URL of a PostgreSQL database for the books; a file in the state folder.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the trunk; all cores.", show_default=False)
    ] = None,
    self_host: Annotated[
        str | None,
        typer.Option(
            help="Memory for experts that it hosts itself, like 8GiB: with enough, a network needs no node; none.",
            show_default=False,
        ),
    ] = None,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(help="Lines for people, or one JSON object each; text.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Serve a model: print the API's URL and an invite for nodes, then report coverage until stopped."""
    end_with_parent()
    _import_little()
    from ..coordinator.app import run
    from ..coordinator.settings import CoordinatorSettings

    settings = CoordinatorSettings.load(
        model=model,
        host=host,
        port=port,
        public_host=public_host,
        api_host=api_host,
        api_port=api_port,
        state_dir=state,
        books=None if books is None else {"url": books},
        threads=threads,
        self_host_bytes=self_host,
        log_format=log_format,
    )
    configure_logging(settings.log_format)

    def announce(coordinator: Coordinator) -> None:
        if as_json:
            emit_json({"api": coordinator.api_url, "invite": coordinator.invite})
            return
        emit(f"api {coordinator.api_url}")
        emit(f"invite {coordinator.invite}")
        if settings.log_format is LogFormat.TEXT:
            say("give the invite to contributors: folkmoot node join INVITE")

    run_until_stopped(run(settings, announce))


def _import_little() -> None:
    """Without a GPU nothing here uses triton, which transformers has torch import: 70 MB."""
    import torch

    if not torch.cuda.is_available():
        leave_out("triton")
