"""`folkmoot node pause|resume|drain|leave|status`: talk to the node that runs on this machine.

Guarantees: where no node runs, that is one line that says how to start one, and exit code 7; nothing heavy is imported.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ..amounts import format_bytes
from .node_options import AsJson, State
from .terminal import emit, emit_json, say

RELIEVED, AT_ONCE, TAKEN_BACK = "relieved", "at once", "taken back"
"""How a drain ends: `node.wishes.DrainEnd`, which would import what is heavy."""
_ENDS = {
    RELIEVED: "others hold all that this node held",
    AT_ONCE: "not waited for: experts may be left without a host there",
    TAKEN_BACK: "taken back: the node goes on",
}


def pause(
    reason: Annotated[str, typer.Option(help="Why, for you and the operators to read.")] = "",
    state: State = None,
) -> None:
    """Take no more work until `resume`; what was downloaded is kept."""
    _ask(state, "pause", reason=reason)
    emit("paused")


def resume(state: State = None) -> None:
    """Take work again: after `pause`, outside of the hours, or instead of a `drain`."""
    _ask(state, "resume")
    emit("resumed")


def drain(
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Do not wait until others hold what this node has.")
    ] = False,
    stay: Annotated[bool, typer.Option("--stay", help="Do not end the node afterwards.")] = False,
    state: State = None,
) -> None:
    """Hand over to other nodes, and then end; nobody who asks the network notices."""
    say("draining: waiting until others hold what this node has; Ctrl-C ends the waiting, not the draining")
    ends = _ask(state, "drain", timeout_s=None, at_once=at_once, stay=stay)
    for name, end in ends.items():
        emit(f"{name}\t{end}\t{_ENDS.get(end, '')}")
    raise typer.Exit(1 if TAKEN_BACK in ends.values() else 0)


def leave(
    name: Annotated[str, typer.Argument(help="The coordinator's name or address, as `status` shows it.")],
    drain: Annotated[
        bool, typer.Option("--drain", help="First wait until others there hold what this node has.")
    ] = False,
    state: State = None,
) -> None:
    """Compute for a network no more, and forget its coordinator."""
    from ..node.control import ask, runs
    from ..node.joined import forget

    folder = _folder(state)
    if runs(folder):
        left = ask(folder, "leave", timeout_s=None, name=name, drain=drain)
    else:
        left = forget(folder, name).name
    emit(f"left {left}")


def status(state: State = None, as_json: AsJson = False) -> None:
    """Show how the node on this machine is doing, with each coordinator."""
    document = _ask(state, "status")
    if as_json:
        emit_json(document)
    else:
        show(document)


def show(document: dict[str, Any]) -> None:
    """Prints a node's status for people."""
    lent = document["lent"]
    public = "" if document["public_name"] == document["name"] else f", in public {document['public_name']}"
    emit(f"node     {document['name']} ({document['node_id'][:12]}{public}), process {document['pid']}")
    emit(f"state    {document['state_dir']}")
    emit(
        f"lends    {format_bytes(lent['memory_bytes'])} of memory, {format_bytes(document['stored_bytes'])} of "
        f"{format_bytes(lent['disk_bytes'])} of disk used, {lent['threads']} threads; hours: {lent['hours']}"
    )
    emit(
        f"rates    download {_rate(lent['download_bytes_per_s'])}, upload {_rate(lent['upload_bytes_per_s'])}"
    )
    if document["resting"]:
        emit(f"resting  {document['resting']}")
    for one in document["coordinators"]:
        emit()
        emit(f"{one['name']} ({one['address']})")
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["since_unix_s"]))
        reason = one["ended"] or one["reason"]
        emit(f"  {'ended' if one['ended'] else one['state']} since {since}{f': {reason}' if reason else ''}")
        emit(
            f"  {one['experts_held']} of {one['experts_assigned']} experts, {format_bytes(one['bytes_held'])} of "
            f"{format_bytes(one['memory_bytes'])}; {format_bytes(one['bytes_fetched'])} fetched"
        )
        emit(
            f"  {one['rows_done']} rows in {one['results_signed']} results; "
            f"{one['results_receipted']} of them receipted since the start"
        )


def _rate(bytes_per_s: int) -> str:
    return f"{format_bytes(bytes_per_s)}/s" if bytes_per_s else "unlimited"


def _folder(state: Path | None) -> Path:
    from ..node.settings import NodeSettings

    return NodeSettings.load(state_dir=state).state_dir


def _ask(state: Path | None, verb: str, **arguments: Any) -> Any:
    from ..node.control import ask

    return ask(_folder(state), verb, **arguments)
