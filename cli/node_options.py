"""The options that several subcommands of `folkmoot node` share, and the settings that they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..logs import LogFormat
from .folder_option import folder

Memory = Annotated[
    str | None,
    typer.Option(
        help="Most memory for experts, like 4GiB, if there is so much; half of what is free.",
        show_default=False,
    ),
]
Disk = Annotated[
    str | None, typer.Option(help="Most disk for experts, like 20GiB; twice the memory.", show_default=False)
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads to compute with; the physical cores.", show_default=False)
]
Download = Annotated[
    str | None,
    typer.Option(help="Most it downloads, like 5MiB/s or 40Mbit/s; unlimited.", show_default=False),
]
Upload = Annotated[
    str | None, typer.Option(help="Most it uploads, like 1MiB/s or 10Mbit/s; unlimited.", show_default=False)
]
Weights = Annotated[
    list[Path] | None,
    typer.Option(
        parser=folder,
        metavar="DIR",
        help="Take experts from this checkpoint or prepared model before asking anybody; may be given again; none.",
        show_default=False,
    ),
]
WorkHours = Annotated[
    list[str] | None,
    typer.Option(
        "--hours",
        help="Work from then to then, like 22:00-07:00; may be given again; always.",
        show_default=False,
    ),
]
State = Annotated[
    Path | None,
    typer.Option(
        parser=folder,
        metavar="PATH",
        help="Where key and experts are kept; ~/.folkmoot/node.",
        show_default=False,
    ),
]
Name = Annotated[str | None, typer.Option(help="What people call this node.", show_default=False)]
PublicName = Annotated[
    str | None,
    typer.Option(
        help="What everybody sees instead of the name; `pseudonym` is one made from the key.",
        show_default=False,
    ),
]
Format = Annotated[
    LogFormat | None,
    typer.Option("--log-format", help="Lines for people, or one JSON object each; text.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")]


def given(
    memory: str | None,
    disk: str | None,
    threads: int | None,
    download: str | None,
    upload: str | None,
    hours: list[str] | None,
    name: str | None,
    public_name: str | None,
    weights: list[Path] | None = None,
) -> dict[str, Any]:
    """The settings that were given as options, by their names."""
    settings = {
        "memory_bytes": memory,
        "disk_bytes": disk,
        "threads": threads,
        "download_bytes_per_s": download,
        "upload_bytes_per_s": upload,
        "hours": hours or None,
        "name": name,
        "public_name": public_name,
        "weights": weights or None,
    }
    return {setting: value for setting, value in settings.items() if value is not None}
