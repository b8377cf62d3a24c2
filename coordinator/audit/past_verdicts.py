"""What evidence that lies in the state folder says when a coordinator starts.

Guarantees: each node against which there is evidence with a verdict that this coordinator signed is out, whatever ended the process
between the evidence and the books, unless the operator has admitted it since; what became of it otherwise is left. Of each file
only the end is read, and of a very full folder only the newest files.
"""

from __future__ import annotations

import heapq
import logging
import os
import time
from pathlib import Path
from typing import Final

from ...errors import TrustError
from ...ids import NodeId, short
from ...trust.audit_statements import VerdictKind, VerdictStatement
from ...trust.evidence import SUFFIX
from ...trust.keys import SIGNATURE_BYTES, VerifyingKey
from ...trust.log_entries import LogEntry
from .evidence_keeper import EvidenceKeeper
from .standing_book import StandingBook

log = logging.getLogger(__name__)

MOST_FILES: Final = 100_000
_END_BYTES: Final = VerdictStatement.BYTES + SIGNATURE_BYTES


def uphold(keeper: EvidenceKeeper, coordinator: bytes, standings: StandingBook) -> int:
    """Convicts again whoever got away; says how many.

    Args:
        keeper: Has the evidence, and tells the public log, which may not have heard of it either.
        coordinator: This coordinator's public key: nobody else's verdict counts.
        standings: How nodes stand by the books.
    """
    convicted = 0
    for path in _newest(keeper.folder):
        entry = _read(path)
        if entry is None or not isinstance(verdict := entry.statement, VerdictStatement):
            continue
        node = NodeId(verdict.node.hex())
        if verdict.coordinator != coordinator or _is_settled(standings, node, verdict):
            continue
        try:
            VerifyingKey(coordinator).verify(entry.signature, verdict.encode())
        except TrustError as error:
            log.warning("%s convicts nobody: %s", path, error)
            continue
        found = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(verdict.decided_unix_s))
        log.warning("node %s is convicted by evidence of an earlier run: %s", short(node), path)
        standings.convicted(
            node, f"a result that it signed was wrong: found {found}, see {path.name}", verdict.decided_unix_s
        )
        keeper.tell(path, entry)
        convicted += 1
    return convicted


def _is_settled(standings: StandingBook, node: NodeId, verdict: VerdictStatement) -> bool:
    """Whether a verdict has had its consequences, or was forgiven, or is none."""
    standing = standings.of(node)
    if verdict.kind not in (VerdictKind.WRONG, VerdictKind.BIASED) or not standing.serves:
        return True
    return verdict.decided_unix_s <= standing.admitted_s


def _newest(folder: Path) -> list[Path]:
    """The evidence in a folder, oldest first: names begin with the time."""
    try:
        with os.scandir(folder) as found:
            names = [entry.name for entry in found if entry.name.endswith(SUFFIX) and entry.is_file()]
    except FileNotFoundError:
        return []
    except OSError as error:
        log.error("evidence in %s cannot be looked at (%s)", folder, error.strerror)
        return []
    if len(names) > MOST_FILES:
        log.warning("of %d files in %s the newest %d are looked at", len(names), folder, MOST_FILES)
    return [folder / name for name in sorted(heapq.nlargest(MOST_FILES, names))]


def _read(path: Path) -> LogEntry | None:
    """The verdict at the end of an evidence file; None when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(-_END_BYTES, os.SEEK_END)
            end = file.read(_END_BYTES)
        statement = VerdictStatement.decode(end[: VerdictStatement.BYTES])
        return LogEntry(statement, end[VerdictStatement.BYTES :])
    except (OSError, TrustError) as error:
        log.warning("%s cannot be read as evidence: %s", path, error)
        return None
