"""What a running node says of itself, over all its coordinators.

Guarantees: plain data that does not change; `document` is what JSON can hold, and only ever gets more fields.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .engagement import Engagement
from .status import NodeStatus


@dataclass(frozen=True)
class Lent:
    """What its contributor lets it take; 0 is no limit of a rate."""

    memory_bytes: int
    disk_bytes: int
    threads: int
    download_bytes_per_s: int
    upload_bytes_per_s: int
    hours: str


@dataclass(frozen=True)
class CoordinatorStatus:
    """How it stands with one coordinator.

    Attributes:
        name: What the contributor calls it.
        status: How the node stands there.
        ended: What ended the work for it for good; empty while it goes on.
        receipts: Receipts that were agreed with, since the start.
        results_receipted: Results that they cover: what the coordinator has accepted, and owes.
        disputed: Receipts that were not as they must be.
    """

    name: str
    status: NodeStatus
    ended: str
    receipts: int
    results_receipted: int
    disputed: int


@dataclass(frozen=True)
class ProcessStatus:
    """One process.

    Attributes:
        name, public_name: What its contributor, and what everybody, calls it.
        node_id: Who it is.
        resting: Why it does not work now; empty when it works.
        lent: Its limits.
        stored_bytes: Bytes of experts on disk.
        coordinators: All that it has joined.
    """

    name: str
    public_name: str
    node_id: str
    pid: int
    state_dir: str
    software_version: str
    started_unix_s: float
    resting: str
    lent: Lent
    stored_bytes: int
    coordinators: tuple[CoordinatorStatus, ...]

    def document(self) -> dict[str, Any]:
        """For programs: the fields by name, those of a coordinator in one object."""
        document = {"object": "folkmoot.node", **asdict(self)}
        document["coordinators"] = [_flat(one) for one in document["coordinators"]]
        return document


def _flat(coordinator: dict[str, Any]) -> dict[str, Any]:
    status = dict(coordinator["status"])
    status["address"] = status.pop("coordinator")
    for known in ("name", "node_id"):  # the process says them once
        status.pop(known)
    rest = {key: value for key, value in coordinator.items() if key not in ("name", "status")}
    return {"name": coordinator["name"], **status, **rest}


def coordinator_status(engagement: Engagement) -> CoordinatorStatus:
    """What there is to say now of the work for one coordinator."""
    daemon, error = engagement.daemon, engagement.error
    receipts = daemon.receipts
    return CoordinatorStatus(
        name=engagement.joined.name,
        status=daemon.status(),
        ended=str(error) if error is not None else "",
        receipts=receipts.agreed,
        results_receipted=receipts.results,
        disputed=receipts.disputed,
    )
