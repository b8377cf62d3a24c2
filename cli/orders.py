"""`folkmoot coordinator ban|admit|quarantine`: the operator's word about a node.

Guarantees: a node is named by its id or by the beginning of one that is known here; the order is in the coordinator's
state folder before the command ends, and it says whether the coordinator has obeyed it already.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .folder_option import folder
from .terminal import emit

OBEYED_WITHIN_S = 3.0
LOOK_EVERY_S = 0.05
_NODE_ID = re.compile(r"[0-9a-f]{64}")

Node = Annotated[str, typer.Argument(help="The node's id, or how it begins: see folkmoot status.")]
Reason = Annotated[str, typer.Option(help="Why, for the contributor to read.")]
State = Annotated[
    Path | None,
    typer.Option(
        parser=folder,
        metavar="PATH",
        help="The coordinator's state; ~/.folkmoot/operator.",
        show_default=False,
    ),
]

Books = Annotated[
    str | None,
    typer.Option(
        help="URL of a PostgreSQL database with the books; a file in the state.", show_default=False
    ),
]


class NoStateError(UsageError):
    """No coordinator would ever see the order."""


class UnknownNodeError(UsageError):
    """No node, or more than one, is meant."""


def ban(
    node: Node, reason: Reason = "banned by the operator", state: State = None, books: Books = None
) -> None:
    """Turn a node out for good; it can come back only when admitted."""
    _give("ban", node, reason, state, books)


def admit(
    node: Node, reason: Reason = "admitted by the operator", state: State = None, books: Books = None
) -> None:
    """Let a quarantined or banned node in again, on probation."""
    _give("admit", node, reason, state, books)


def quarantine(
    node: Node, reason: Reason = "quarantined by the operator", state: State = None, books: Books = None
) -> None:
    """Turn a node out until it is admitted again."""
    _give("quarantine", node, reason, state, books)


def _give(wish: str, node: str, reason: str, state: Path | None, books: str | None) -> None:
    from ..coordinator.audit.orders import Order, OrderBox, Wish
    from ..coordinator.books.visitor import NoBooksError, Visitor
    from ..coordinator.settings import CoordinatorSettings
    from ..ids import NodeId

    # Only the state folder is asked for; any model does.
    settings = CoordinatorSettings.load(
        model=Path(), state_dir=state, books=None if books is None else {"url": books}
    )
    kept = settings.state_dir
    if not kept.is_dir():
        raise NoStateError(
            f"{kept} is no coordinator's state folder: there is nothing",
            advice="name the one that the coordinator runs with: --state DIR",
        )
    known: Sequence[str] = ()
    text = node.lower()
    if not _NODE_ID.fullmatch(text):
        # Whoever names all of it needs no books: the order is given even while they cannot be read.
        with contextlib.suppress(NoBooksError), Visitor(settings.books, kept) as visitor:
            known = visitor.known()
    meant = NodeId(resolve(text, known))
    path = OrderBox(kept).place(Order(Wish(wish), meant, reason))
    until_s = time.monotonic() + OBEYED_WITHIN_S
    while path.exists() and time.monotonic() < until_s:
        time.sleep(LOOK_EVERY_S)
    done = "the coordinator obeys when it starts" if path.exists() else "done"
    emit(f"{wish} {meant}: {done}")


def resolve(text: str, known: Sequence[str]) -> str:
    """The id of the node that is meant. Raises UnknownNodeError when it is none, or more than one."""
    if _NODE_ID.fullmatch(text):
        return text
    meant = [node for node in known if node.startswith(text)]
    if len(meant) != 1:
        raise UnknownNodeError(
            f"{len(meant)} known nodes begin with {text!r}",
            advice="name one by all 64 digits: folkmoot status --json shows them",
        )
    return meant[0]
