"""Proven: a ticket lets one node in until one time, at the coordinator that signed it, and nothing else is a ticket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.trust.keys import Identity
from folkmoot.trust.statements import StatementError, manifest_statement
from folkmoot.trust.tickets import (
    TICKET_BYTES,
    ExpiredTicketError,
    ForeignTicketError,
    ForgedTicketError,
    MalformedTicketError,
    TicketError,
    check_ticket,
    issue_ticket,
)

COORDINATOR = Identity(b"c" * 32)
NODE = Identity(b"n" * 32)
OTHER = Identity(b"o" * 32)
EXPIRES = 2_000_000_000
TICKET = issue_ticket(COORDINATOR, NODE.public, EXPIRES)


def test_a_ticket_is_good_until_it_expires() -> None:
    assert len(TICKET) == TICKET_BYTES == 104
    assert check_ticket(COORDINATOR.public, TICKET, NODE.public, 0) == EXPIRES
    assert check_ticket(COORDINATOR.public, TICKET, NODE.public, EXPIRES - 0.5) == EXPIRES
    for late in (EXPIRES, EXPIRES + 0.5, float("inf")):
        with pytest.raises(ExpiredTicketError):
            check_ticket(COORDINATOR.public, TICKET, NODE.public, late)


def test_a_ticket_is_for_one_node() -> None:
    with pytest.raises(ForeignTicketError):
        check_ticket(COORDINATOR.public, TICKET, OTHER.public, 0)


def test_a_ticket_is_of_one_coordinator() -> None:
    with pytest.raises(ForgedTicketError):
        check_ticket(OTHER.public, TICKET, NODE.public, 0)


@given(st.integers(0, TICKET_BYTES * 8 - 1))
def test_a_ticket_with_any_bit_flipped_is_forged(bit: int) -> None:
    changed = bytearray(TICKET)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ForgedTicketError):
        check_ticket(COORDINATOR.public, bytes(changed), NODE.public, 0)


@given(st.binary(max_size=TICKET_BYTES + 20).filter(lambda ticket: len(ticket) != TICKET_BYTES))
def test_bytes_of_another_length_are_no_ticket(ticket: bytes) -> None:
    with pytest.raises(MalformedTicketError):
        check_ticket(COORDINATOR.public, ticket, NODE.public, 0)


@given(st.binary(min_size=TICKET_BYTES, max_size=TICKET_BYTES), st.floats(), st.binary(max_size=40))
def test_arbitrary_bytes_are_never_good(ticket: bytes, now: float, node: bytes) -> None:
    with pytest.raises(TicketError) as caught:
        check_ticket(COORDINATOR.public, ticket, node, now)
    assert caught.value.advice


def test_a_signature_over_another_statement_makes_no_ticket() -> None:
    body = TICKET[:40]
    for message in (body, manifest_statement(NODE.public), NODE.public):
        with pytest.raises(ForgedTicketError):
            check_ticket(COORDINATOR.public, body + COORDINATOR.sign(message), NODE.public, 0)


@pytest.mark.parametrize("expires", [-1, 2**64])
def test_a_time_that_cannot_be_written_is_refused(expires: int) -> None:
    with pytest.raises(StatementError):
        issue_ticket(COORDINATOR, NODE.public, expires)


def test_a_ticket_for_no_key_is_refused() -> None:
    with pytest.raises(StatementError):
        issue_ticket(COORDINATOR, b"short", EXPIRES)
