"""How every node stands, kept over restarts.

Guarantees: a quarantine, a ban, a pardon, a promotion and a strike are on disk before anybody is told of them; a file that
is damaged is refused, never passed over, for it would let convicted nodes in; when nodes are too many, mere newcomers are
forgotten first. May be used from any thread; those who subscribed are told of a change of status in the thread that made it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ...errors import TrustError
from ...ids import NodeId, short
from ...trust import standing as rules
from ...trust.standing import Standing, StandingSettings, Status
from .private_files import private_folder, write_private

log = logging.getLogger(__name__)

STANDING_FILE: Final = "standing.json"
FORMAT: Final = "folkmoot-standing/1"
MOST_NEWCOMERS: Final = 100_000
MAX_FILE_BYTES: Final = 256 << 20
NODE_ID_CHARACTERS: Final = 64


class StandingFileError(TrustError):
    """The file that says how nodes stand cannot be read."""


@dataclass(frozen=True, slots=True)
class Record:
    """One node's standing, and what people call it."""

    standing: Standing
    name: str = ""

    @property
    def worth_keeping(self) -> bool:
        """Whether it says more than that the node is new."""
        standing = self.standing
        return standing.status is not Status.PROBATION or standing.passed > 0 or bool(standing.strikes_s)


class StandingBook:
    """The standings of one coordinator's nodes."""

    def __init__(
        self, folder: Path | None, settings: StandingSettings, clock: Callable[[], float] = time.time
    ) -> None:
        """Reads what was kept.

        Args:
            folder: Where it is kept; None keeps nothing.
            settings: The rules.
            clock: Seconds of the calendar.

        Raises:
            StandingFileError: when what was kept cannot be read.
        """
        self.settings = settings
        self._path = None if folder is None else private_folder(folder) / STANDING_FILE
        self._clock = clock
        self._lock = threading.RLock()
        self._records = read_standings(self._path) if self._path is not None else {}
        self._subscribers: list[Callable[[NodeId], None]] = []
        self._unsaved = False

    def of(self, node: NodeId) -> Standing:
        """How a node stands."""
        record = self._records.get(node)
        return rules.newcomer(self._clock()) if record is None else record.standing

    def records(self) -> dict[NodeId, Record]:
        """Everything that is known right now."""
        # One copy is one step of the interpreter: whoever asks never waits for a disk.
        return dict(self._records)

    def refusal(self, node: NodeId) -> str | None:
        """Why a node may not serve; None when it may."""
        standing = self.of(node)
        return None if standing.serves else f"this node is {standing.status.value}: {standing.reason}"

    def met(self, node: NodeId, name: str) -> None:
        """A node enrolled or attached under this name."""
        with self._lock:
            record = self._records.get(node)
            standing = rules.newcomer(self._clock()) if record is None else record.standing
            met = Record(standing, name)
            if met != record:
                self._records[node] = met
                self._unsaved = True

    def subscribe(self, on_change: Callable[[NodeId], None]) -> None:
        """Calls the function after each change of a node's status."""
        self._subscribers.append(on_change)

    def audit_passed(self, node: NodeId) -> None:
        """The node passed an audit."""
        if self.of(node).status is Status.PROBATION:
            self._change(node, lambda standing, now_s: rules.audit_passed(standing, self.settings, now_s))

    def struck(self, node: NodeId, what: str) -> None:
        """The node did something that is no fraud, but that too much of is not to be had."""
        self._change(node, lambda standing, now_s: rules.struck(standing, self.settings, now_s, what))

    def convicted(self, node: NodeId, what: str) -> None:
        """A verdict was found against the node."""
        self._change(node, lambda standing, now_s: rules.convicted(standing, now_s, what))

    def quarantined(self, node: NodeId, why: str) -> None:
        """The operator wants the node out, until admitted."""
        self._change(node, lambda standing, now_s: rules.quarantined(standing, now_s, why))

    def banned(self, node: NodeId, why: str) -> None:
        """The operator wants the node out for good."""
        self._change(node, lambda _, now_s: rules.banned(now_s, why))

    def admitted(self, node: NodeId, why: str) -> None:
        """The operator wants the node in again."""
        self._change(node, lambda _, now_s: rules.admitted(now_s, why))

    @property
    def saved(self) -> bool:
        """Whether all that is to be kept is on disk."""
        return not self._unsaved or self._path is None

    def save(self) -> None:
        """Writes what has not been written yet; a disk that does not take it is only remarked on, and tried again."""
        with self._lock:
            if not self._unsaved or self._path is None:
                return
            if len(self._records) > MOST_NEWCOMERS:
                self._records = {
                    node: record for node, record in self._records.items() if record.worth_keeping
                }
            kept = {node: _document(record) for node, record in self._records.items()}
            content = json.dumps({"format": FORMAT, "nodes": kept}, separators=(",", ":")).encode()
            try:
                write_private(self._path, content)
            except OSError as error:
                log.error("%s cannot be written (%s): how nodes stand is not kept", self._path, error)
            else:
                self._unsaved = False

    def _change(self, node: NodeId, rule: Callable[[Standing, float], Standing]) -> None:
        with self._lock:
            now_s = self._clock()
            record = self._records.get(node) or Record(rules.newcomer(now_s))
            before, after = record.standing, rule(record.standing, now_s)
            self._records[node] = replace(record, standing=after)
            self._unsaved = True
            changed = after.status is not before.status or after.since_s != before.since_s
            if changed or after.strikes_s != before.strikes_s:
                self.save()
        if changed:
            log.info("node %s (%s) is now %s: %s", short(node), record.name, after.status.value, after.reason)
            for on_change in self._subscribers:
                on_change(node)


def read_standings(path: Path) -> dict[NodeId, Record]:
    """What was kept in a file; empty when there is none.

    Raises:
        StandingFileError: when it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
        document = json.loads(data)
        if document["format"] != FORMAT:
            raise ValueError("another version")
        return {_node(node): _record(fields) for node, fields in document["nodes"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StandingFileError(
            f"{path}, which says which nodes are quarantined, cannot be read ({error})",
            advice="restore it from a copy; without it, convicted nodes could come back",
        ) from error


def _document(record: Record) -> dict[str, Any]:
    standing = record.standing
    return {
        "name": record.name,
        "status": standing.status.value,
        "reason": standing.reason,
        "since": standing.since_s,
        "passed": standing.passed,
        "strikes": list(standing.strikes_s),
    }


def _record(fields: dict[str, Any]) -> Record:
    standing = Standing(
        Status(fields["status"]),
        str(fields["reason"]),
        float(fields["since"]),
        int(fields["passed"]),
        tuple(float(at) for at in fields["strikes"]),
    )
    return Record(standing, str(fields["name"]))


def _node(text: str) -> NodeId:
    if len(bytes.fromhex(text)) * 2 != NODE_ID_CHARACTERS:
        raise ValueError(f"{text!r} is no node")
    return NodeId(text)
