"""`folkmoot coordinator invite|credits|leaderboard|history`: what the operator keeps books of.

Guarantees: all work beside a running coordinator and without one, and change nothing but that an owner's invite is added; standard
output holds only what was asked for: lines for people, one JSON object, or a table.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .orders import Books, State, resolve
from .terminal import emit, emit_json

if TYPE_CHECKING:
    from ..coordinator.books.visitor import Visitor
    from ..coordinator.settings import CoordinatorSettings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")]


class NoAddressError(UsageError):
    """Nobody knows where an invite should lead to."""


class NotItsStateError(UsageError):
    """The state folder is not that of the coordinator whose books these are."""


class TwoFormsError(UsageError):
    """Two forms of output were asked for at once."""


def invite(
    owner: Annotated[
        str | None,
        typer.Option(
            help="Whose nodes join with it; without it, each node stands for itself.", show_default=False
        ),
    ] = None,
    public_name: Annotated[
        str | None, typer.Option(help="What everybody may call the owner; nothing.", show_default=False)
    ] = None,
    state: State = None,
    books: Books = None,
    as_json: Json = False,
) -> None:
    """Print an invite; all nodes that join with an owner's invites count as one contributor."""
    from ..coordinator.app import IDENTITY_FILE
    from ..coordinator.hub.join_secret import JOIN_SECRET_FILE, load_or_create_join_secret
    from ..trust.invite import Invite
    from ..trust.keys import Identity, fingerprint

    if public_name is not None and owner is None:
        raise UsageError("a public name is an owner's", advice="name the owner too: --owner NAME")
    settings = _settings(state, books)
    with _visit(settings) as visitor:
        address = visitor.address()
        if address is None:
            raise NoAddressError("this coordinator has never said where it listens", advice="start it once")
        host, _, port = address.rpartition(":")
        for name in (IDENTITY_FILE, JOIN_SECRET_FILE):
            if not (settings.state_dir / name).exists():
                raise NotItsStateError(
                    f"{settings.state_dir} has no {name}",
                    advice="name the coordinator's state folder with --state",
                )
        identity = Identity.load_or_create(settings.state_dir / IDENTITY_FILE)
        if visitor.coordinator() != identity.public:
            raise NotItsStateError(
                f"the books are not those of the coordinator whose state is in {settings.state_dir}",
                advice="name the state folder and the books of one coordinator, with --state and --books",
            )
        secret = load_or_create_join_secret(settings.state_dir)
        if owner is not None:
            secret = visitor.invite(owner, public_name, secret)
    text = Invite(host.strip("[]"), int(port), fingerprint(identity.public), secret).encode()
    if as_json:
        emit_json({"invite": text, "owner": owner})
    else:
        emit(text)


def credits(
    state: State = None,
    books: Books = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a table for spreadsheets.")] = False,
    as_json: Json = False,
) -> None:
    """Print what each contributor is owed: accepted and receipted work, exactly, with the operator's own names."""
    from ..coordinator.books.accounts import CREDIT_UNIT
    from ..coordinator.books.accounts import as_csv as table

    if as_csv and as_json:
        raise TwoFormsError("--csv and --json are two forms of the same", advice="ask for one of them")
    with _visit(_settings(state, books)) as visitor:
        found = visitor.accounts()
    if as_json:
        emit_json({"unit": CREDIT_UNIT, "contributors": [account.document() for account in found]})
    elif as_csv:
        emit(table(found).rstrip("\n"))
    else:
        from ..amounts import format_bytes

        for account in found:
            emit(
                f"{account.contributor}  {len(account.nodes)} nodes, {account.credit.results} results, "
                f"{account.credit.rows} rows, {format_bytes(account.credit.row_bytes)} of experts"
            )


def leaderboard(state: State = None, books: Books = None, as_json: Json = False) -> None:
    """Print who has done how much, as everybody may see it: by public names and pseudonyms."""
    from ..amounts import format_bytes
    from ..coordinator.books.accounts import leaderboard as ranked

    with _visit(_settings(state, books)) as visitor:
        document = ranked(visitor.accounts())
    if as_json:
        emit_json(document)
        return
    for one in document["contributors"]:
        emit(
            f"{one['rank']:>4}  {one['name']}  {format_bytes(one['row_bytes'])} of experts, "
            f"{one['rows']} rows, {one['nodes']} nodes"
        )


def history(
    node: Annotated[str, typer.Argument(help="The node's id, or how it begins.")],
    last: Annotated[int, typer.Option(min=1, max=100_000, help="How many changes.")] = 50,
    state: State = None,
    books: Books = None,
    as_json: Json = False,
) -> None:
    """Print how a node's state changed: when, to what, and why."""
    from ..ids import NodeId

    with _visit(_settings(state, books)) as visitor:
        meant = NodeId(resolve(node.lower(), visitor.known()))
        changes = visitor.history(meant, last)
    if as_json:
        emit_json(
            {
                "node": meant,
                "changes": [
                    {"since_unix_us": one.since_us, "state": one.state, "reason": one.reason}
                    for one in changes
                ],
            }
        )
        return
    for one in changes:
        when = datetime.fromtimestamp(one.since_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
        emit(f"{when}  {one.state:<12}{one.reason}".rstrip())


def _settings(state: Path | None, books: str | None) -> CoordinatorSettings:
    from ..coordinator.settings import CoordinatorSettings

    # Only the state folder and the books are asked for; any model does.
    return CoordinatorSettings.load(
        model=Path(), state_dir=state, books=None if books is None else {"url": books}
    )


def _visit(settings: CoordinatorSettings) -> Visitor:
    from ..coordinator.books.visitor import Visitor

    return Visitor(settings.books, settings.state_dir)
