"""Orders are files: obeyed once, in their order, only if they are the operator's own, and kept until what they say is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from folkmoot.coordinator.audit.orders import Order, OrderBox, OrderError, Wish
from folkmoot.coordinator.audit.standing_book import StandingBook
from folkmoot.disk import DiskFullError
from folkmoot.ids import NodeId
from folkmoot.tests.support.kept_books import books_in, full_disk
from folkmoot.trust.standing import StandingSettings, Status

NODE = NodeId("ab" * 32)


@pytest.fixture
def standings(tmp_path: Path) -> Iterator[StandingBook]:
    with books_in(tmp_path) as books:
        yield StandingBook(books.standings, StandingSettings())


def test_orders_are_obeyed_in_their_order(tmp_path: Path, standings: StandingBook) -> None:
    box = OrderBox(tmp_path)
    assert box.obey(standings) == 0
    paths = [box.place(Order(wish, NODE, wish.value)) for wish in (Wish.QUARANTINE, Wish.BAN, Wish.ADMIT)]
    assert box.obey(standings) == 3
    assert standings.of(NODE).status is Status.PROBATION
    assert standings.of(NODE).reason == "admit"
    assert not any(path.exists() for path in paths)


def test_an_order_that_changes_nothing_is_done_with(tmp_path: Path, standings: StandingBook) -> None:
    box = OrderBox(tmp_path)
    box.place(Order(Wish.BAN, NODE, "enough"))
    path = box.place(Order(Wish.QUARANTINE, NODE, "a ban is more than that"))
    assert box.obey(standings) == 2
    assert standings.of(NODE).status is Status.BANNED
    assert not path.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"format":"folkmoot-order/1","wish":"ban","node":"ab","reason":""}',
        b'{"format":"folkmoot-order/1","wish":"praise","node":"' + b"ab" * 32 + b'","reason":""}',
        b'{"format":"folkmoot-order/1","wish":"ban","node":"' + b"ab" * 32 + b'","reason":7}',
        b'{"format":"folkmoot-order/1","wish":"ban","node":"' + b"ab" * 32 + b'","reason":"\\udcff"}',
    ],
)
def test_what_is_no_order_is_put_aside(tmp_path: Path, standings: StandingBook, content: bytes) -> None:
    with pytest.raises(OrderError):
        Order.decode(content)
    box = OrderBox(tmp_path)
    good = box.place(Order(Wish.BAN, NODE, "enough"))
    bad = good.with_name("0-first.json")
    bad.write_bytes(content)
    assert box.obey(standings) == 1
    assert not bad.exists()
    assert standings.of(NODE).status is Status.BANNED


def test_a_link_to_another_file_is_no_order(tmp_path: Path, standings: StandingBook) -> None:
    box = OrderBox(tmp_path / "box")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(Order(Wish.BAN, NODE, "").encode())
    path = box.place(Order(Wish.QUARANTINE, NODE, "first"))
    (path.parent / "9-link.json").symlink_to(elsewhere)
    assert box.obey(standings) == 1
    assert standings.of(NODE).status is Status.QUARANTINED


def test_a_full_disk_takes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("folkmoot.coordinator.audit.orders.write_private", full)
    with pytest.raises(DiskFullError, match="orders .*free some room"):
        OrderBox(tmp_path).place(Order(Wish.BAN, NODE, "enough"))


def test_an_order_stays_until_it_is_kept(
    tmp_path: Path, standings: StandingBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = OrderBox(tmp_path)
    path = box.place(Order(Wish.BAN, NODE, "enough"))

    with full_disk(monkeypatch):
        assert box.obey(standings) == 0
    assert path.exists()
    deadline_s = time.monotonic() + 60
    while path.exists():
        assert time.monotonic() < deadline_s
        box.obey(standings)
