"""`folkmoot coordinator`: operate a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .daemon import end_with_parent

app = typer.Typer(help="Operate a network.")


@app.callback()
def group() -> None:
    """Operate a network."""


@app.command()
def serve(
    model: Annotated[Path, typer.Option(help="A prepared model.")],
    host: Annotated[str | None, typer.Option(help="Where nodes connect to.", show_default=False)] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0 takes a free one.", show_default=False)
    ] = None,
    api_host: Annotated[str, typer.Option(help="Where the HTTP API listens.")] = "127.0.0.1",
    api_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    state: Annotated[
        Path | None,
        typer.Option(help="Where key and books are kept; ~/.folkmoot/operator.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when ready.")] = False,
) -> None:
    """Serve a model: prints the API's URL and the invite for nodes, then coverage until it is complete."""
    end_with_parent()
