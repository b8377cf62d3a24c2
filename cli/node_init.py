"""`folkmoot node init`: a few questions, and the settings file of a node.

Guarantees: what was given as an option is not asked; a file that is there is left alone unless `--force` is given, and that is
said before the first question; standard output has the path of the file and nothing else.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .node_options import Disk, Download, Memory, Name, PublicName, State, Threads, Upload, WorkHours
from .terminal import emit, say


def init(
    yes: Annotated[bool, typer.Option("--yes", help="Take the defaults without asking.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the settings file that is there.")] = False,
    name: Name = None,
    public_name: PublicName = None,
    state: State = None,
    memory: Memory = None,
    disk: Disk = None,
    threads: Threads = None,
    download: Download = None,
    upload: Upload = None,
    hours: WorkHours = None,
) -> None:
    """Ask a few questions, and write the settings file of this machine's node."""
    from ..node.settings import NodeSettings
    from ..node.wizard import answer_all, exists, to_toml, write

    path = NodeSettings.file()
    if path.exists() and not force:
        raise exists(path)
    options = {
        "name": name,
        "public_name": public_name,
        "state_dir": state,
        "memory_bytes": memory,
        "disk_bytes": disk,
        "threads": threads,
        "download_bytes_per_s": download,
        "upload_bytes_per_s": upload,
        "hours": ",".join(hours) if hours else None,
    }
    given = {setting: str(value) for setting, value in options.items() if value is not None}
    if not yes:
        say("A few questions; Enter takes what stands in brackets.")
    answers = answer_all(given, None if yes else _ask, say)
    write(path, to_toml(answers), replace=force)
    emit(str(path))
    say(
        "next: `folkmoot node doctor` looks whether this machine is fit, `folkmoot node join INVITE` joins a network"
    )


def _ask(question: str, default: str) -> str:
    """What was typed, from standard input; the question goes where it does not mix with the result."""
    print(f"{question} [{default}]: ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        say()
        raise typer.Abort
    return answer
