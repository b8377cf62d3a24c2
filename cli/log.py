"""`folkmoot log`: check a network's public log, and that it only ever grows.

Guarantees: each step of a check is printed as it is done; the exit code is 0 when the log is sound, 1 when it is broken: forged,
rewritten, or hiding what it said before; 2 when what is served is no log. A log that nobody serves ends as all errors do.
What is kept for the next visit is replaced only by what was found sound.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ..errors import CapacityError, UsageError
from .terminal import emit, emit_json, say

if TYPE_CHECKING:
    from ..trust.keys import VerifyingKey

VISITS_FOLDER: Final = "logs"
MAX_KEPT_BYTES: Final = 64 << 10

app = typer.Typer(help="Check a network's public log.")


class KeyTextError(UsageError):
    """A text that should be an operator's key is none."""


class NotKeptError(CapacityError):
    """What a visit found cannot be kept, or not be read again."""


@app.callback()
def group() -> None:
    """Check a network's public log."""


@app.command()
def verify(
    url: Annotated[
        str | None, typer.Argument(help="The API's URL; FOLKMOOT_URL.", show_default=False)
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Where the last visit is kept; ~/.folkmoot/logs.", show_default=False),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="The operator's public key in hexadecimal; that of the first visit.", show_default=False
        ),
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Read all entries, not only those since the last visit.")
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(min=0, help="Read only so many entries, drawn by chance.", show_default=False),
    ] = None,
    entries: Annotated[bool, typer.Option("--entries", help="Print each entry that is read.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Check a log's signature, its entries, and that it begins with all that it had at the last visit."""
    from ..client.log_reader import LogReader
    from ..home import folkmoot_home
    from ..trust.log_entries import LoggedStatement, describe
    from ..trust.log_visit import Finding, LogVisit, Reading, most_bytes

    read: list[tuple[int, str]] = []

    def listen(index: int, statement: LoggedStatement) -> None:
        if as_json:
            read.append((index, describe(statement)))
        else:
            emit(f"    {index:<8}{describe(statement)}")

    operator = _key(key) if key is not None else None
    with LogReader(url) as reader:
        place = (state or folkmoot_home() / VISITS_FOLDER) / _file_name(reader.url)
        visit = LogVisit(
            lambda path: reader.read(path, most_bytes(path)),
            _kept(place),
            operator,
            Reading(complete, sample),
            listen=listen if entries else None,
        )
        steps, finding = [], Finding.BROKEN
        for step in visit.steps():
            steps.append(step)
            finding = step.finding or finding
            if not as_json:
                emit(f"{'ok' if step.held else 'NO':<4}{step.name:<12}{step.detail}")
    if finding is Finding.SOUND:
        _keep(place, visit.note)
    elif visit.checkpoint is not None:
        broken = place.with_suffix(".broken")
        _keep(broken, visit.note)
        say(f"the checkpoint that its operator signed is kept as proof in {broken}")
    if as_json:
        found = visit.checkpoint
        emit_json(
            {
                "url": reader.url,
                "finding": finding.value,
                "origin": found.origin if found else None,
                "size": found.size if found else None,
                "root": found.root.hex() if found else None,
                "checkpoint": visit.note.decode(errors="replace"),
                "entries": [{"index": index, "entry": entry} for index, entry in read],
                "steps": [{"name": step.name, "held": step.held, "detail": step.detail} for step in steps],
            }
        )
    else:
        emit(finding.value)
    raise typer.Exit(finding.exit_code)


def _key(text: str) -> VerifyingKey:
    from ..trust.keys import VerifyingKey, WeakKeyError

    try:
        return VerifyingKey(bytes.fromhex(text))
    except (ValueError, WeakKeyError) as error:
        raise KeyTextError(
            "the operator's key is not 64 hexadecimal digits of a public key",
            advice="ask the operator for it",
        ) from error


def _file_name(url: str) -> str:
    """A name of its own for each URL, by which people know it too."""
    plain = re.sub(r"[^a-z0-9.]+", "-", url.partition("://")[2].lower())[:60]
    return f"{plain}-{hashlib.sha256(url.encode()).hexdigest()[:12]}.checkpoint"


def _kept(place: Path) -> bytes | None:
    try:
        with place.open("rb") as stream:
            return stream.read(MAX_KEPT_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NotKeptError(
            f"the last visit, in {place}, cannot be read ({error.strerror})", advice="name another --state"
        ) from error


def _keep(place: Path, note: bytes) -> None:
    draft = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("xb") as file:
                file.write(note)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(place)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise NotKeptError(
            f"this visit cannot be kept in {place} ({error.strerror}): the next cannot be compared with it",
            advice="name a folder that you may write to with --state",
        ) from error
