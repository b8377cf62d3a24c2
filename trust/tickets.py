"""Tickets: a coordinator's signed, short-lived permit for an enrolled node.

Guarantees: a ticket is 104 bytes, signed by the coordinator over a statement of its own kind, and good for one node key
until one time; checking it needs no state, so any part of a coordinator can.
"""

from __future__ import annotations

import struct
from typing import Final

from ..errors import TrustError
from .keys import KEY_BYTES, SIGNATURE_BYTES, Identity, SignatureError, VerifyingKey
from .statements import ticket_statement

_BODY: Final = struct.Struct(f">{KEY_BYTES}sQ")
TICKET_BYTES: Final = _BODY.size + SIGNATURE_BYTES


class TicketError(TrustError):
    """A ticket does not let this node attach."""


class MalformedTicketError(TicketError):
    """The bytes are no ticket."""


class ForgedTicketError(TicketError):
    """This coordinator did not sign the ticket."""


class ForeignTicketError(TicketError):
    """The ticket is another node's."""


class ExpiredTicketError(TicketError):
    """The ticket was good, once."""


def issue_ticket(identity: Identity, node_key: bytes, expires_unix_s: int) -> bytes:
    """A ticket of the coordinator for one node: 104 bytes.

    Raises:
        StatementError: when the key is not 32 bytes, or the time is out of range.
    """
    signature = identity.sign(ticket_statement(identity.public, node_key, expires_unix_s))
    return _BODY.pack(node_key, expires_unix_s) + signature


def check_ticket(coordinator_key: bytes, ticket: bytes, node_key: bytes, now_unix_s: float) -> int:
    """The time until which the ticket is good, when it is good for this node now.

    Args:
        coordinator_key: The Ed25519 public key of the coordinator that checks.
        ticket: What the node presents.
        node_key: The Ed25519 public key of the node.
        now_unix_s: The time.

    Raises:
        MalformedTicketError, ForgedTicketError, ForeignTicketError, ExpiredTicketError: all are TicketError.
    """
    if len(ticket) != TICKET_BYTES:
        raise MalformedTicketError(
            f"a ticket has {TICKET_BYTES} bytes, not {len(ticket)}", advice="enrol again with the invite"
        )
    holder, expires_unix_s = _BODY.unpack_from(ticket)
    try:
        VerifyingKey(coordinator_key).verify(
            ticket[_BODY.size :], ticket_statement(coordinator_key, holder, expires_unix_s)
        )
    except SignatureError:
        raise ForgedTicketError(
            "the ticket was not signed by this coordinator", advice="enrol again with the invite"
        ) from None
    if holder != node_key:
        raise ForeignTicketError("the ticket is for another node", advice="enrol again with the invite")
    if now_unix_s >= expires_unix_s:
        raise ExpiredTicketError("the ticket has expired", advice="enrol again with the invite")
    return int(expires_unix_s)
