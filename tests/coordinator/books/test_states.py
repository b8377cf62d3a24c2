"""Changes of state are kept in order with time and reason, what is no change is not kept, and old ones are forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.coordinator.books.visitor import Visitor
from folkmoot.ids import NodeId

OpenBooks = Callable[[], Books]
NODE, OTHER = NodeId("ab" * 32), NodeId("cd" * 32)
NOW = int(time.time())


def test_changes_are_kept_in_order(open_books: OpenBooks, settings: BooksSettings, tmp_path: Path) -> None:
    books = open_books()
    books.states.changed(NODE, "joining", "", NOW)
    books.states.changed(OTHER, "joining", "", NOW)
    books.states.changed(NODE, "ready", "", NOW)
    books.states.changed(NODE, "ready", "", NOW + 1)
    books.states.changed(NODE, "lost", "the cable\x00", NOW - 5)
    books.close()
    books = open_books()
    books.states.changed(NODE, "joining", "", NOW + 9)
    books.close()
    with Visitor(settings, tmp_path) as visitor:
        changes = visitor.history(NODE, 10)
        assert [(one.state, one.reason) for one in changes] == [
            ("joining", ""),
            ("ready", ""),
            ("lost", "the cable\ufffd"),
            ("joining", ""),
        ]
        times = [one.since_us for one in changes]
        assert times == sorted(set(times)), "a clock that goes back mixes nothing up"
        assert visitor.history(NODE, 2) == changes[-2:]
        assert len(visitor.history(OTHER, 10)) == 1


def test_old_changes_are_forgotten(open_books: OpenBooks, settings: BooksSettings, tmp_path: Path) -> None:
    books = open_books()
    books.states.changed(NODE, "ready", "", NOW - 91 * 86_400)
    books.states.changed(NODE, "lost", "", NOW)
    books.close()
    open_books().close()
    with Visitor(settings, tmp_path) as visitor:
        assert [one.state for one in visitor.history(NODE, 10)] == ["lost"]
