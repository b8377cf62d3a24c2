"""What each contributor has come to: the nodes of one owner together, and any other node by itself.

Guarantees: pure functions over what the books say; sums are exact; whoever did more comes first, and ties are in a fixed order.
What is public has no owner's private name: only what owners want to be called, or else a pseudonym that tells nothing of them.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ...ids import NodeId, short
from ...trust.statements import domain_tag
from .contributors import KnownNode
from .credit import Credit

CREDIT_UNIT: Final = "bytes of experts worked through: for each accepted row, the size of its expert"
COLUMNS: Final = ("contributor", "public_name", "nodes", "results", "rows", "row_bytes")
MOST_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class Account:
    """One contributor's.

    Attributes:
        contributor: What the operator calls the owner; a node's id where it has none.
        public_name: What everybody may call it.
        nodes: The nodes, in order.
        credit: The sum of what they are owed.
    """

    contributor: str
    public_name: str
    nodes: tuple[NodeId, ...]
    credit: Credit

    def document(self) -> dict[str, Any]:
        """For the operator's programs."""
        return {
            "contributor": self.contributor,
            "public_name": self.public_name,
            "nodes": list(self.nodes),
            **_sums(self.credit),
        }

    def public_document(self, rank: int) -> dict[str, Any]:
        """For everybody."""
        return {
            "rank": rank,
            "name": self.public_name,
            "nodes": len(self.nodes),
            **_sums(self.credit),
        }


def accounts(
    owed: Mapping[NodeId, Credit], known: Mapping[NodeId, KnownNode], owners: Mapping[str, str]
) -> list[Account]:
    """All contributors that are owed anything, or own a node; whoever did more comes first.

    Args:
        owed: What each node is owed.
        known: Nodes that have enrolled.
        owners: Owners' public names, empty for none.
    """
    of: dict[str, list[NodeId]] = {}
    for node in sorted(owed.keys() | known.keys()):
        person = known[node].owner if node in known else None
        if person is not None or node in owed:
            of.setdefault(person or node, []).append(node)
    found = [
        Account(
            contributor,
            _public_name(contributor, nodes, known, owners),
            tuple(nodes),
            sum((owed.get(node, Credit()) for node in nodes), Credit()),
        )
        for contributor, nodes in of.items()
    ]
    return sorted(found, key=lambda account: (-account.credit.row_bytes, account.contributor))


def leaderboard(ranked: list[Account], most: int = MOST_SHOWN) -> dict[str, Any]:
    """What everybody may see."""
    return {
        "object": "folkmoot.leaderboard",
        "unit": CREDIT_UNIT,
        "contributors": [account.public_document(rank) for rank, account in enumerate(ranked[:most], 1)],
    }


def as_csv(ranked: list[Account]) -> str:
    """All accounts as a table; nodes are separated by spaces."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for account in ranked:
        row = account.document() | {"nodes": " ".join(account.nodes)}
        writer.writerow([_cell(row[column]) for column in COLUMNS])
    return text.getvalue()


def _cell(value: object) -> object:
    """Text that no spreadsheet takes for a formula: names come from outside."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value


def _public_name(
    contributor: str,
    nodes: list[NodeId],
    known: Mapping[NodeId, KnownNode],
    owners: Mapping[str, str],
) -> str:
    if contributor in owners:
        pseudonym = hashlib.sha256(domain_tag("pseudonym") + b"".join(map(str.encode, nodes))).hexdigest()[:8]
        return owners[contributor] or f"contributor {pseudonym}"
    node = known.get(nodes[0])
    return node.name if node is not None and node.name else f"node {short(nodes[0])}"


def _sums(credit: Credit) -> dict[str, int]:
    return {"results": credit.results, "rows": credit.rows, "row_bytes": credit.row_bytes}
