"""Enrolment: how a node shows that it was invited, and gets a ticket.

Guarantees: the join secret never leaves the node; nothing is proven to a coordinator whose key is not the one that the
invite pins; the ticket stays in memory. Whether a ticket is still good only the coordinator says: a contributor's clock may
be wrong.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

import grpc

from .. import __version__
from ..protos.folkmoot.v1 import enrolment_pb2, enrolment_pb2_grpc
from ..protos.limits import NONCE_BYTES
from ..trust.enrolment import prove
from ..trust.invite import Invite
from ..trust.keys import Identity
from ..trust.statements import enrolment_statement
from .remote import NodeRefusedError, TicketRefusedError, named

log = logging.getLogger(__name__)


class Enroller:
    """Gets tickets over one channel, one at a time, and keeps the last one."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        invite: Invite,
        identity: Identity,
        coordinator_key: bytes,
        name: str,
        timeout_s: float,
        ticket: bytes = b"",
    ) -> None:
        self._stub = enrolment_pb2_grpc.EnrolmentStub(channel)
        self._invite = invite
        self._identity = identity
        self._coordinator_key = coordinator_key
        self._name = name
        self._timeout_s = timeout_s
        self._one_at_a_time = asyncio.Lock()
        self.last = ticket

    async def ticket(self, refused: bytes = b"") -> bytes:
        """A ticket that is not `refused`: the last one, or a new one.

        Raises:
            NodeRefusedError: when the coordinator will not enrol this node with this invite.
            CoordinatorLostError: when it does not answer.
        """
        async with self._one_at_a_time:
            if not self.last or self.last == refused:
                self.last = await self._enrol()
            return self.last

    async def _enrol(self) -> bytes:
        node_key, node_nonce = self._identity.public, secrets.token_bytes(NONCE_BYTES)
        try:
            challenge = await self._stub.Challenge(
                enrolment_pb2.ChallengeRequest(node_key=node_key, node_nonce=node_nonce),
                timeout=self._timeout_s,
            )
            if challenge.coordinator_key != self._coordinator_key:
                raise NodeRefusedError(
                    "enrolment: the coordinator names another key than the one in the invite",
                    advice="ask the operator for a current invite",
                )
            if len(challenge.coordinator_nonce) != NONCE_BYTES:
                raise NodeRefusedError("enrolment: the coordinator's nonce has the wrong length")
            statement = enrolment_statement(
                self._coordinator_key,
                node_key,
                challenge.coordinator_nonce,
                node_nonce,
                self._name,
                __version__,
            )
            proof = prove(self._identity, self._invite.join_secret, statement)
            reply = await self._stub.Enrol(
                enrolment_pb2.EnrolRequest(
                    node_key=node_key,
                    node_nonce=node_nonce,
                    coordinator_nonce=challenge.coordinator_nonce,
                    name=self._name,
                    invite_proof=proof.invite_proof,
                    possession_proof=proof.possession_proof,
                    software_version=__version__,
                ),
                timeout=self._timeout_s,
            )
        except grpc.aio.AioRpcError as error:
            cause = named(error, "the enrolment failed")
            if isinstance(cause, TicketRefusedError):
                cause = NodeRefusedError(cause.message, advice="ask the operator for a current invite")
            raise cause from error
        log.info("enrolled as %s", self._name)
        return reply.ticket
