"""The files that were there before the books, taken over once.

Guarantees: what each file says and the note that it was taken over are one transaction, so it counts once, whatever ends the
process; afterwards the file is kept under another name. One about credits or standings that is damaged is refused, for it would
be forgotten what is owed, and convicted nodes could come back; one about placement is passed over, for it costs downloads alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, insert, select

from ...errors import TrustError
from ...ids import ExpertKey, NodeId
from ...trust.standing import Standing, Status
from ..audit.standing_book import Record
from .credit import Credit
from .database import Database
from .placement_memory import Remembered, write_holdings
from .receipt_book import write_credits
from .standings import write_standings
from .tables import facts

log = logging.getLogger(__name__)

CREDIT_FILE: Final = "credits.json"
STANDING_FILE: Final = "standing.json"
PLACEMENT_FILE: Final = "placement.json"
TAKEN_SUFFIX: Final = ".in-the-books"
MAX_FILE_BYTES: Final = 256 << 20
_MOST: Final = (1 << 64) - 1
_KEY_BYTES: Final = 32
_MALFORMED: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


class OldFileError(TrustError):
    """A file from before the books cannot be read."""


def take_over(folder: Path, database: Database) -> None:
    """Takes over what a state folder has from before the books.

    Raises:
        OldFileError: when a file cannot be read that must not be passed over.
        FolkmootError: when the books cannot be written, or a file not be renamed.
    """
    for name, take in _TAKERS.items():
        path = folder / name
        if not path.exists():
            continue
        if database.write(partial(_once, path, take(path))):
            log.info("%s was taken over into the books", path)
        try:
            path.rename(path.with_name(name + TAKEN_SUFFIX))
        except OSError as error:
            log.warning("%s is in the books and cannot be renamed (%s)", path, error.strerror)


def _once(path: Path, write: _Write, connection: Connection) -> bool:
    """Writes what a file says, unless that was done before; whether it was not."""
    fact = f"taken over: {path.name}"
    if connection.execute(select(facts.c.value).where(facts.c.name == fact)).scalar() is not None:
        return False
    write(connection)
    connection.execute(insert(facts).values(name=fact, value=str(path)))
    return True


_Write = Callable[[Connection], None]


def _credits(path: Path) -> _Write:
    try:
        owed = {
            _node(node): _credit(fields)
            for node, fields in _document(path, "folkmoot-credits/1")["nodes"].items()
        }
    except _MALFORMED as error:
        raise _refused(path, "what nodes are owed", error) from error
    return lambda connection: write_credits(connection, owed.items())


def _standings(path: Path) -> _Write:
    try:
        records = {
            _node(node): _record(fields)
            for node, fields in _document(path, "folkmoot-standing/1")["nodes"].items()
        }
    except _MALFORMED as error:
        raise _refused(path, "which nodes are quarantined", error) from error
    return lambda connection: write_standings(connection, records)


def _placement(path: Path) -> _Write:
    try:
        document = _document(path, "folkmoot-placement/1")
        manifest = str(document["manifest"])
        nodes = {_node(node): _remembered(*fields) for node, fields in document["nodes"].items()}
    except _MALFORMED as error:
        log.warning("%s cannot be used (%s); experts are placed anew", path, error)
        return lambda connection: None
    return lambda connection: write_holdings(connection, manifest, nodes)


_TAKERS: Final[dict[str, Callable[[Path], _Write]]] = {
    CREDIT_FILE: _credits,
    STANDING_FILE: _standings,
    PLACEMENT_FILE: _placement,
}


def _document(path: Path, form: str) -> Any:
    with path.open("rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
    document = json.loads(data)
    if document["format"] != form:
        raise ValueError("another version")
    return document


def _refused(path: Path, what: str, error: BaseException) -> OldFileError:
    return OldFileError(
        f"{path}, which says {what}, cannot be read ({error})",
        advice="restore it from a copy, or move it away to begin without it",
    )


def _node(text: str) -> NodeId:
    if len(bytes.fromhex(text)) != _KEY_BYTES or text != text.lower():
        raise ValueError(f"{text!r} is no node")
    return NodeId(text)


def _credit(fields: Any) -> Credit:
    results, rows, row_bytes = fields
    if any(type(value) is not int or not 0 <= value <= _MOST for value in (results, rows, row_bytes)):
        raise ValueError(f"{fields!r} is no credit")
    return Credit(results, rows, row_bytes)


def _record(fields: Any) -> Record:
    status, since_s = Status(fields["status"]), float(fields["since"])
    standing = Standing(
        status,
        str(fields["reason"]),
        since_s,
        int(fields["passed"]),
        tuple(float(at) for at in fields["strikes"]),
        # Whom the operator had admitted was not noted.
        since_s if status in (Status.PROBATION, Status.MEMBER) else 0.0,
    )
    return Record(standing, str(fields["name"]))


def _remembered(memory_bytes: int, layers: Mapping[str, Iterable[int]]) -> Remembered:
    keys = {ExpertKey(int(layer), int(expert)) for layer, experts in layers.items() for expert in experts}
    return Remembered(int(memory_bytes), frozenset(keys))
