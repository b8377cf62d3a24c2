"""Owners and invites: several nodes of one person count as one, an owner's invite works as soon as it is made, and a ticket is given
only when the books have it; the books by themselves let nobody in."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.contributors import OwnerNameError, invite_secret
from folkmoot.coordinator.books.database import Database
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.coordinator.books.tables import invites, nodes, tickets
from folkmoot.coordinator.books.visitor import Visitor
from folkmoot.ids import NodeId
from folkmoot.tests.support.kept_books import full_disk
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_hub import JOIN_SECRET, running_hub
from folkmoot.tests.support.scripted_node import ScriptedNode
from folkmoot.trust.keys import Identity

OpenBooks = Callable[[], Books]
NODE, OTHER = NodeId("ab" * 32), NodeId("cd" * 32)
PATIENCE_S = 60.0


def enrol(books: Books, node: NodeId, owner: str | None, at_unix_s: int = 5) -> None:
    ticket = bytes.fromhex(node) + at_unix_s.to_bytes(8)
    books.contributors.enrolled(node, "oak", "0.1", owner, ticket, (at_unix_s, at_unix_s + 10**10)).result(
        PATIENCE_S
    )


def test_owners_are_known_after_a_restart(
    open_books: OpenBooks, settings: BooksSettings, tmp_path: Path
) -> None:
    books = open_books()
    with Visitor(settings, tmp_path) as visitor:
        visitor.invite("Ada", "the countess", JOIN_SECRET)
        visitor.invite("Ada", None, JOIN_SECRET)
        visitor.invite("Bob", None, JOIN_SECRET)
    books.contributors.refresh()
    enrol(books, NODE, "Ada")
    enrol(books, NODE, None, 6)
    enrol(books, OTHER, None)
    books.close()
    books = open_books()
    assert (books.owner_of(NODE), books.owner_of(OTHER)) == ("Ada", OTHER)
    assert books.owner_of(NodeId("ef" * 32)) == "ef" * 32
    assert books.contributors.public_names() == {"Ada": "the countess", "Bob": ""}
    known = books.contributors.known()[NODE]
    assert (known.first_unix_s, known.enrolled_unix_s, known.software) == (5, 6, "0.1")
    enrol(books, NODE, "Bob", 7)
    assert books.owner_of(NODE) == "Bob"


def test_a_ticket_is_in_the_books_before_it_is_given(
    open_books: OpenBooks, settings: BooksSettings, tmp_path: Path
) -> None:
    books = open_books()
    enrol(books, NODE, None, 3)
    enrol(books, NODE, None)
    database = Database(settings, tmp_path)
    (kept,) = database.read(lambda connection: connection.execute(select(tickets)).all())
    assert (kept.node, kept.issued_unix_s) == (NODE, 5)
    assert kept.ticket == hashlib.sha256(bytes.fromhex(NODE) + (5).to_bytes(8)).hexdigest()
    database.close()


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "ab" * 32, "x" * 201, "\udcff"])
def test_nobody_is_called_that(
    name: str, open_books: OpenBooks, settings: BooksSettings, tmp_path: Path
) -> None:
    open_books().close()
    with Visitor(settings, tmp_path) as visitor, pytest.raises(OwnerNameError):
        visitor.invite(name, None, JOIN_SECRET)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 65])
def test_nobody_is_called_that_in_public(
    name: str, open_books: OpenBooks, settings: BooksSettings, tmp_path: Path
) -> None:
    open_books().close()
    with Visitor(settings, tmp_path) as visitor, pytest.raises(OwnerNameError, match="public"):
        visitor.invite("Ada", name, JOIN_SECRET)


async def test_nodes_that_join_with_an_owners_invite_are_the_owners(
    books: Books, settings: BooksSettings, tmp_path: Path
) -> None:
    model = MemoryExperts(experts=6)
    async with running_hub(model, contributors=books.contributors, replicas=2) as network:
        plain = await network.join()
        with Visitor(settings, tmp_path) as visitor:
            secret = visitor.invite("Ada", None, JOIN_SECRET)
        invite = dataclasses.replace(network.hub.invite, join_secret=secret)
        mine = []
        for _ in range(2):
            node = ScriptedNode(invite, model)
            network.nodes.append(node)
            await node.join()
            mine.append(node)
        assert [books.owner_of(node.node) for node in mine] == ["Ada", "Ada"]
        assert books.owner_of(plain.node) == plain.node
        # Two copies with two owners: whoever stands alone has one of each.
        await network.until(lambda: set(plain.assigned) == set(model.manifest.experts), 60.0)


async def test_an_invite_that_the_books_do_not_know_lets_nobody_in(books: Books) -> None:
    model = MemoryExperts()
    async with running_hub(model, contributors=books.contributors) as network:
        forged = invite_secret(JOIN_SECRET, "00" * 16)
        stranger = ScriptedNode(dataclasses.replace(network.hub.invite, join_secret=forged), model)
        with pytest.raises(Exception, match="join secret"):
            await stranger.join()
        assert not network.hub.snapshot().nodes


async def test_while_the_books_cannot_be_written_nobody_enrols_and_nobody_is_cut_off(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MemoryExperts()
    async with running_hub(model, contributors=books.contributors) as network:
        (node,) = await network.join_ready(None)
        identity = Identity.generate()
        with full_disk(monkeypatch):
            for _ in range(2):
                late = ScriptedNode(network.hub.invite, model, identity=identity)
                with pytest.raises(Exception, match="no room for the books"):
                    await late.join()
            await network.check(0)
            assert network.seen(node).state.value == "ready"
        await network.until(lambda: not books.writer.waiting, 60.0)
        await network.join(identity=identity)


def test_the_books_hold_no_secret(open_books: OpenBooks, settings: BooksSettings, tmp_path: Path) -> None:
    open_books().close()
    with Visitor(settings, tmp_path) as visitor:
        secret = visitor.invite("Ada", None, JOIN_SECRET)
    database = Database(settings, tmp_path)
    rows = database.read(
        lambda connection: [*connection.execute(select(invites)), *connection.execute(select(nodes))]
    )
    database.close()
    assert rows
    said = repr([tuple(row) for row in rows])
    assert secret.hex() not in said
    assert repr(secret) not in said
    assert invite_secret(bytes(16), rows[0].invite) != secret
