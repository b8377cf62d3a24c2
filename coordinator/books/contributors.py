"""Who the nodes belong to: owners, their invites, and what every node enrolled as.

Guarantees: a node gets its ticket only after the books have the node, its owner and the ticket; what an invite carries is derived
from the coordinator's join secret and the invite's number, so the books alone let nobody in; a node belongs to the owner whose
invite it used last, and an invite without an owner changes nothing. Reading never waits for a database, but for `refresh`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection, bindparam, delete, exists, func, insert, select

from ...errors import UsageError
from ...ids import NodeId
from ...protos.limits import MAX_NAME
from ...trust.enrolment import JOIN_SECRET_BYTES
from ...trust.statements import domain_tag
from .database import Database
from .tables import credits, invites, nodes, owners, tickets
from .texts import storable
from .upsert import upsert
from .writer import BooksWriter

MOST_INVITES: Final = 10_000
MAX_OWNER: Final = 200
_NODE_ID: Final = re.compile(r"[0-9a-f]{64}")
_INVITE_BYTES: Final = 16


class OwnerNameError(UsageError):
    """No owner can be called that."""


@dataclass(frozen=True, slots=True)
class KnownNode:
    """A node that has enrolled.

    Attributes:
        node: Who it is.
        name: What it calls itself.
        owner: Whose it is; None while no owner's invite was used.
        software: The version that it said it runs.
        first_unix_s, enrolled_unix_s: When it enrolled for the first and for the last time.
    """

    node: NodeId
    name: str
    owner: str | None
    software: str
    first_unix_s: int
    enrolled_unix_s: int


@dataclass(frozen=True, slots=True)
class _Ticket:
    digest: str
    issued_unix_s: int
    expires_unix_s: int


def invite_secret(join_secret: bytes, invite: str) -> bytes:
    """What the invite of this number carries in place of the join secret: 16 bytes."""
    message = domain_tag("owner-invite") + bytes.fromhex(invite)
    return hmac.digest(join_secret, message, "sha256")[:JOIN_SECRET_BYTES]


class Contributors:
    """The owners and nodes of one coordinator. Any thread."""

    def __init__(self, database: Database, writer: BooksWriter) -> None:
        self._database = database
        self._writer = writer
        self._group = writer.group("enrolments", parted=True)
        self._enrolled = self._group.staged(_write_nodes)
        self._tickets = self._group.staged(_write_tickets)
        self._lock = threading.Lock()
        self._nodes: dict[NodeId, KnownNode] = {}
        self._invites: dict[str, str] = {}
        self._public: dict[str, str] = {}
        self._secrets: dict[str, bytes] = {}

    def load(self, connection: Connection) -> None:
        """Reads who is known."""
        self._nodes = all_nodes(connection)
        self._invites, self._public = _invites(connection), all_owners(connection)

    def forgotten(self, gone: Collection[NodeId], before_unix_s: int) -> None:
        """Nodes are not in the books any more; those that have enrolled meanwhile will be."""
        with self._lock:
            for node in gone:
                if node in self._nodes and self._nodes[node].enrolled_unix_s < before_unix_s:
                    del self._nodes[node]

    def owner_of(self, node: NodeId) -> str:
        """Whose a node is; its own id where nobody is known."""
        known = self._nodes.get(node)
        return node if known is None or known.owner is None else known.owner

    def known(self) -> dict[NodeId, KnownNode]:
        """Every node that ever enrolled."""
        return dict(self._nodes)

    def public_names(self) -> dict[str, str]:
        """What owners want to be called; empty for none."""
        return dict(self._public)

    def secrets(self, join_secret: bytes) -> Iterator[tuple[bytes, str]]:
        """What owners' invites carry, and whose they are."""
        for invite, owner in list(self._invites.items()):
            secret = self._secrets.get(invite)
            if secret is None:
                secret = self._secrets[invite] = invite_secret(join_secret, invite)
            yield secret, owner

    def refresh(self) -> None:
        """Learns of owners and invites that were made meanwhile. Blocks; raises a FolkmootError when the books cannot be read."""
        self._invites, self._public = self._database.read(
            lambda connection: (_invites(connection), all_owners(connection))
        )

    def enrolled(
        self, node: NodeId, name: str, software: str, owner: str | None, ticket: bytes, times: tuple[int, int]
    ) -> Future[None]:
        """A node enrolled; it may be given its ticket when this is done.

        Args:
            node: Who it is.
            name: What it calls itself.
            software: The version that it says it runs.
            owner: Whose invite it used; None for one without an owner.
            ticket: What it is to be given.
            times: When that was issued, and when it expires.

        Returns:
            It fails, with a FolkmootError, when the books cannot be written at present, or refuse this node.
        """
        if (fault := self._writer.fault(self._group)) is not None:
            # Else those who ask again and again would fill the memory.
            failed: Future[None] = Future()
            failed.set_exception(fault)
            return failed
        issued_unix_s, expires_unix_s = times
        with self._lock:
            before = self._nodes.get(node)
            if before is None:
                before = KnownNode(node, "", None, "", issued_unix_s, issued_unix_s)
            self._nodes[node] = known = replace(
                before,
                name=storable(name),
                software=storable(software),
                owner=owner or before.owner,
                enrolled_unix_s=issued_unix_s,
            )
            with self._group.lock:
                self._enrolled.put(node, known)
                digest = hashlib.sha256(ticket).hexdigest()
                self._tickets.put(node, _Ticket(digest, issued_unix_s, expires_unix_s))
        return self._writer.flush(self._group, once=True, key=node)


def new_invite(connection: Connection, owner: str, public_name: str | None, now_unix_s: int) -> str:
    """The number of a new invite of an owner, who becomes known with it.

    Args:
        connection: A transaction that writes.
        owner: What the operator calls the person.
        public_name: What everybody may; None leaves it as it is.
        now_unix_s: The time.

    Raises:
        OwnerNameError: when nobody can be called that, or there are too many invites.
    """
    check_owner(owner)
    if public_name is not None and not (
        0 < len(public_name.strip()) <= MAX_NAME and public_name.isprintable()
    ):
        raise OwnerNameError(
            f"{public_name[:MAX_NAME]!r} is no public name",
            advice=f"give one line of at most {MAX_NAME} characters",
        )
    if connection.execute(select(func.count()).select_from(invites)).scalar_one() >= MOST_INVITES:
        raise OwnerNameError(
            f"there are {MOST_INVITES} invites already",
            advice="one invite serves any number of nodes: give it again",
        )
    row = {"owner": owner, "public_name": storable(public_name or ""), "created_unix_s": now_unix_s}
    if public_name is not None or owner not in all_owners(connection):
        upsert(connection, owners, [row], keep=["created_unix_s"])
    invite = secrets.token_hex(_INVITE_BYTES)
    connection.execute(insert(invites).values(invite=invite, owner=owner, created_unix_s=now_unix_s))
    return invite


def check_owner(owner: str) -> None:
    """Returns when somebody can be called that. Raises OwnerNameError."""
    if not owner.strip() or len(owner) > MAX_OWNER or not owner.isprintable() or storable(owner) != owner:
        raise OwnerNameError(f"{owner[:MAX_NAME]!r} is no name for an owner", advice="give one line of text")
    if _NODE_ID.fullmatch(owner):
        raise OwnerNameError("an owner cannot be called as a node is", advice="give a person's name")


def all_nodes(connection: Connection) -> dict[NodeId, KnownNode]:
    """Every node that ever enrolled."""
    columns = [nodes.c[name] for name in KnownNode.__slots__]
    return {NodeId(row.node): KnownNode(*row) for row in connection.execute(select(*columns))}


def all_owners(connection: Connection) -> dict[str, str]:
    """Every owner's public name."""
    return {row.owner: row.public_name for row in connection.execute(select(owners))}


def forget_tickets(connection: Connection, before_unix_s: int) -> None:
    """Forgets tickets that expired before."""
    connection.execute(delete(tickets).where(tickets.c.expires_unix_s < before_unix_s))


def forget_nodes(connection: Connection, before_unix_s: int) -> list[NodeId]:
    """Forgets nodes that enrolled before, have no ticket any more, and never earned anything; returns them."""
    gone = connection.execute(
        select(nodes.c.node)
        .where(nodes.c.enrolled_unix_s < before_unix_s)
        .where(~exists().where(tickets.c.node == nodes.c.node))
        .where(~exists().where(credits.c.node == nodes.c.node))
    ).scalars()
    found = [NodeId(node) for node in gone]
    if found:
        connection.execute(
            delete(nodes).where(nodes.c.node == bindparam("of")), [{"of": node} for node in found]
        )
    return found


def _invites(connection: Connection) -> dict[str, str]:
    return {row.invite: row.owner for row in connection.execute(select(invites))}


def _write_nodes(connection: Connection, known: dict[NodeId, KnownNode]) -> None:
    rows = [{name: getattr(one, name) for name in KnownNode.__slots__} for one in known.values()]
    upsert(connection, nodes, rows, keep=("first_unix_s",))


def _write_tickets(connection: Connection, issued: dict[NodeId, _Ticket]) -> None:
    """One row a node: its newest ticket."""
    connection.execute(
        delete(tickets).where(tickets.c.node == bindparam("of")), [{"of": node} for node in issued]
    )
    rows = [
        {
            "ticket": one.digest,
            "node": node,
            "issued_unix_s": one.issued_unix_s,
            "expires_unix_s": one.expires_unix_s,
        }
        for node, one in issued.items()
    ]
    upsert(connection, tickets, rows)
