"""What a coordinator owes each node, over all its sessions and restarts.

Guarantees: credits are whole numbers and only grow; after `save` they outlive the end of the process and of the machine's power.
A file that is damaged is refused, never passed over: what contributors are owed would be forgotten. For one thread.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...errors import TrustError
from ...ids import NodeId
from ..audit.private_files import private_folder, write_private

CREDIT_FILE: Final = "credits.json"
FORMAT: Final = "folkmoot-credits/1"
MAX_FILE_BYTES: Final = 256 << 20
_KEY_BYTES: Final = 32
_MOST: Final = (1 << 64) - 1


class CreditFileError(TrustError):
    """The file of credits cannot be read."""


@dataclass(frozen=True, slots=True)
class Credit:
    """What one node has done that a receipt covers.

    Attributes:
        results: Results accepted.
        rows: Pairs of a row and an expert in them.
        row_bytes: The sum over these of the expert's canonical bytes.
    """

    results: int = 0
    rows: int = 0
    row_bytes: int = 0

    def plus(self, results: int, rows: int, row_bytes: int) -> Credit:
        """With more work."""
        return Credit(self.results + results, self.rows + rows, self.row_bytes + row_bytes)


class CreditBook:
    """The credits of one coordinator's nodes."""

    def __init__(self, folder: Path) -> None:
        """Reads what was kept. Raises CreditFileError when it cannot be read."""
        self._path = private_folder(folder) / CREDIT_FILE
        self._credits = read_credits(self._path)
        self._unsaved = False

    def of(self, node: NodeId) -> Credit:
        """A node's credit."""
        return self._credits.get(node, Credit())

    def add(self, node: NodeId, results: int, rows: int, row_bytes: int) -> None:
        """Credits work."""
        self._credits[node] = self.of(node).plus(results, rows, row_bytes)
        self._unsaved = True

    def save(self) -> None:
        """Writes what has not been written yet. Raises OSError when the disk does not take it."""
        if self._unsaved:
            kept = {
                node: [credit.results, credit.rows, credit.row_bytes]
                for node, credit in self._credits.items()
            }
            content = json.dumps({"format": FORMAT, "nodes": kept}, separators=(",", ":")).encode()
            write_private(self._path, content)
            self._unsaved = False


def read_credits(path: Path) -> dict[NodeId, Credit]:
    """What was kept in a file; empty when there is none.

    Raises:
        CreditFileError: when it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
        document = json.loads(data)
        if document["format"] != FORMAT:
            raise ValueError("another version")
        return {_node(node): _credit(fields) for node, fields in document["nodes"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CreditFileError(
            f"{path}, which says what nodes are owed, cannot be read ({error})",
            advice="restore it from a copy, or move it away to begin anew; the public log has the last credits",
        ) from error


def _credit(fields: Any) -> Credit:
    results, rows, row_bytes = fields
    if any(type(value) is not int or not 0 <= value <= _MOST for value in (results, rows, row_bytes)):
        raise ValueError(f"{fields!r} is no credit")
    return Credit(results, rows, row_bytes)


def _node(text: str) -> NodeId:
    if len(bytes.fromhex(text)) != _KEY_BYTES or text != text.lower():
        raise ValueError(f"{text!r} is no node")
    return NodeId(text)
