"""The Enrolment service: how a node becomes known.

Guarantees: a ticket is given only to a node that proved, over nonces of both sides, that it holds its key and knows the
join secret, or that of an owner's invite, that is not banned, and whose enrolment is in the public log and, with its owner and the
ticket, in the books; small-order keys never get a challenge. Every refusal has a status and a reason:
INVALID_ARGUMENT for what no node of ours would send, FAILED_PRECONDITION for a challenge that is used or expired (ask for
another), PERMISSION_DENIED for a node that was not invited or is banned, UNAUTHENTICATED for one without its key, UNAVAILABLE
while the log or the books cannot be written.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import grpc

from ...errors import CapacityError, FolkmootError, UnavailableError, WireError
from ...ids import NodeId, short
from ...protos.folkmoot.v1 import enrolment_pb2
from ...protos.folkmoot.v1.enrolment_pb2_grpc import EnrolmentServicer
from ...protos.limits import MAX_NAME, NONCE_BYTES
from ...trust.enrolment import EnrolmentProof, NotInvitedError, check_proof
from ...trust.keys import Identity, SignatureError, VerifyingKey, WeakKeyError
from ...trust.log_entries import EnrolmentEntry, LogEntry
from ...trust.statements import StatementError, enrolment_statement
from ...trust.tickets import issue_ticket
from ..books.contributors import Contributors
from ..ledger.public_log import EntryLog
from .challenges import ChallengeError, ChallengeTable
from .roster import MAX_MEMBERS, Roster

log = logging.getLogger(__name__)

MAX_VERSION = 64
SEARCHES = 2
"""How many proofs are held against all owners' invites at once; the others wait for their turn."""


class EnrolmentFormError(WireError):
    """A field of an enrolment is too long or too short."""


class BannedError(FolkmootError):
    """The node may not join: it was cut off too often, or is quarantined or banned."""


class Enrolments(EnrolmentServicer):
    """Enrols nodes under one identity and one join secret."""

    def __init__(
        self,
        identity: Identity,
        join_secret: bytes,
        roster: Roster,
        challenges: ChallengeTable,
        ticket_lifetime_s: float,
        refusal: Callable[[NodeId], str | None],
        entry_log: EntryLog | None = None,
        contributors: Contributors | None = None,
    ) -> None:
        """`entry_log` and `contributors`, if there are any, know of a node before it gets its ticket."""
        self._identity = identity
        self._join_secret = join_secret
        self._roster = roster
        self._challenges = challenges
        self._ticket_lifetime_s = ticket_lifetime_s
        self._refusal = refusal
        self._entry_log = entry_log
        self._contributors = contributors
        self._logged: OrderedDict[NodeId, bytes] = OrderedDict()
        self._searching = asyncio.Semaphore(SEARCHES)
        self._refreshing = asyncio.Lock()
        self._refreshes = self._refreshed = 0

    async def Challenge(
        self, request: enrolment_pb2.ChallengeRequest, context: Any
    ) -> enrolment_pb2.ChallengeReply:
        """The first half: a nonce for a key that could be a node's."""
        try:
            VerifyingKey(request.node_key)
            _check_nonce(request.node_nonce)
        except FolkmootError as error:
            await refuse(context, error)
        nonce = self._challenges.issue(request.node_key, request.node_nonce, time.monotonic())
        return enrolment_pb2.ChallengeReply(
            coordinator_key=self._identity.public,
            coordinator_nonce=nonce,
            unix_time_ms=int(time.time() * 1000),
        )

    async def Enrol(self, request: enrolment_pb2.EnrolRequest, context: Any) -> enrolment_pb2.EnrolReply:
        """The second half: both proofs for a ticket."""
        try:
            node, owner = await self._prove(request)
            await self._record(node, request)
            issued_unix_s = int(time.time())
            expires_unix_s = int(issued_unix_s + self._ticket_lifetime_s)
            ticket = issue_ticket(self._identity, request.node_key, expires_unix_s)
            if self._contributors is not None:
                name, times = clean_name(request.name), (issued_unix_s, expires_unix_s)
                version = clean_name(request.software_version)
                await asyncio.wrap_future(
                    self._contributors.enrolled(node, name, version, owner, ticket, times)
                )
        except FolkmootError as error:
            log.warning("an enrolment from %s was refused: %s", context.peer(), error)
            await refuse(context, error)
        member = self._roster.enrolled(node, clean_name(request.name))
        log.info("node %s (%s) enrolled, software %r", short(node), member.name, request.software_version)
        return enrolment_pb2.EnrolReply(ticket=ticket, expires_unix_s=expires_unix_s)

    async def _record(self, node: NodeId, request: enrolment_pb2.EnrolRequest) -> None:
        """Returns once the log has the node with its software; one entry in this process's life is enough, whatever else fails."""
        software = hashlib.sha256(request.software_version.encode()).digest()
        if self._entry_log is None or self._logged.get(node) == software:
            return
        statement = EnrolmentEntry(self._identity.public, request.node_key, software, int(time.time()))
        await asyncio.wrap_future(self._entry_log.append(LogEntry.signed(statement, self._identity)))
        self._logged[node] = software
        self._logged.move_to_end(node)
        if len(self._logged) > MAX_MEMBERS:
            self._logged.popitem(last=False)

    async def _prove(self, request: enrolment_pb2.EnrolRequest) -> tuple[NodeId, str | None]:
        """Who it is, and who invited it, once both proofs hold."""
        _check_nonce(request.node_nonce)
        if len(request.name) > MAX_NAME or len(request.software_version) > MAX_VERSION:
            raise EnrolmentFormError(
                "the name or version is too long", advice=f"use at most {MAX_NAME} characters"
            )
        self._challenges.redeem(
            request.coordinator_nonce, request.node_key, request.node_nonce, time.monotonic()
        )
        statement = enrolment_statement(
            self._identity.public,
            request.node_key,
            request.coordinator_nonce,
            request.node_nonce,
            request.name,
            request.software_version,
        )
        proof = EnrolmentProof(request.invite_proof, request.possession_proof)
        secret, owner = await self._invited_by(statement, proof.invite_proof) or (self._join_secret, None)
        node = check_proof(request.node_key, secret, statement, proof).node_id
        if (refusal := self._refusal(node)) is not None:
            raise BannedError(refusal, advice="ask the operator what was wrong")
        return node, owner

    async def _invited_by(self, statement: bytes, proof: bytes) -> tuple[bytes, str | None] | None:
        """What the invite carried under which a node proved that it was invited, and whose it is; None when it is unknown."""
        if _proves(self._join_secret, statement, proof):
            return self._join_secret, None
        found = await self._owner(statement, proof)
        if found is None:
            # The invite may be newer than what is known here.
            await self._refresh()
            found = await self._owner(statement, proof)
        return found

    async def _owner(self, statement: bytes, proof: bytes) -> tuple[bytes, str] | None:
        """What the owner's invite carried that a proof was made with, and whose it is."""
        if self._contributors is None:
            return None
        # There may be thousands of invites, and whoever asks has proved nothing so far.
        async with self._searching:
            return await asyncio.to_thread(
                _search, self._contributors.secrets(self._join_secret), statement, proof
            )

    async def _refresh(self) -> None:
        """Learns of invites that were made before this call; calls that come together share one look."""
        if self._contributors is None:
            return
        before = self._refreshes
        async with self._refreshing:
            if self._refreshed > before:
                return
            self._refreshes += 1
            await asyncio.to_thread(self._contributors.refresh)
            self._refreshed = self._refreshes


_STATUS: tuple[tuple[type[FolkmootError], grpc.StatusCode], ...] = (
    (NotInvitedError, grpc.StatusCode.PERMISSION_DENIED),
    (BannedError, grpc.StatusCode.PERMISSION_DENIED),
    (ChallengeError, grpc.StatusCode.FAILED_PRECONDITION),
    (SignatureError, grpc.StatusCode.UNAUTHENTICATED),
    (WeakKeyError, grpc.StatusCode.INVALID_ARGUMENT),
    (StatementError, grpc.StatusCode.INVALID_ARGUMENT),
    (WireError, grpc.StatusCode.INVALID_ARGUMENT),
    (CapacityError, grpc.StatusCode.UNAVAILABLE),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
)


async def refuse(context: Any, error: FolkmootError) -> NoReturn:
    """Ends a call with the status that belongs to an error of enrolment."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    await context.abort(status, str(error))
    raise error  # abort has raised already; this tells the type checker so


def clean_name(name: str) -> str:
    """A name that is safe to print: one line, no control or invisible characters, at most `MAX_NAME` characters."""
    spaced = "".join(" " if character.isspace() else character for character in name)
    visible = "".join(character for character in spaced if unicodedata.category(character)[0] != "C")
    return " ".join(visible.split())[:MAX_NAME]


def _search(secrets: Iterable[tuple[bytes, str]], statement: bytes, proof: bytes) -> tuple[bytes, str] | None:
    return next((known for known in secrets if _proves(known[0], statement, proof)), None)


def _proves(secret: bytes, statement: bytes, proof: bytes) -> bool:
    return hmac.compare_digest(hmac.digest(secret, statement, "sha256"), proof)


def _check_nonce(nonce: bytes) -> None:
    if len(nonce) != NONCE_BYTES:
        raise EnrolmentFormError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
