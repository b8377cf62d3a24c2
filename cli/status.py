"""`folkmoot status`: the nodes, coverage and counters of a network."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from ..amounts import format_bytes
from .ask import Url
from .terminal import emit, emit_json

SHORT_ID = 12


def status(
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the document of /v1/network.")] = False,
) -> None:
    """Show the nodes, coverage and counters of a network."""
    from ..client import FolkmootClient

    with FolkmootClient(url) as client:
        network = client.network()
    if as_json:
        emit_json(network)
    else:
        show(network)


def coverage_line(network: dict[str, Any]) -> str:
    """One line about how many experts have a host."""
    coverage = network["coverage"]
    return (
        f"coverage {coverage['covered']} of {coverage['experts']} experts ({coverage['fraction']:.0%}), "
        f"{coverage['replicated']} on two nodes or more"
    )


def counters_line(network: dict[str, Any]) -> str:
    """One line about what nodes have signed and how it was judged."""
    counters = network["counters"]
    return (
        f"results {counters['results_signed']} signed, {counters['results_verified']} verified, "
        f"{counters['results_rejected']} rejected; {counters['retries']} retries"
    )


def own_line(network: dict[str, Any]) -> str:
    """One line about what the coordinator hosts itself."""
    own, counters = network["self_host"], network["counters"]
    held, memory = format_bytes(own["held_bytes"]), format_bytes(own["memory_bytes"])
    return (
        f"hosted by the coordinator itself: {own['experts']} experts, {held} of {memory}; "
        f"{counters['results_own']} results of its own"
    )


def audits_line(network: dict[str, Any]) -> str:
    """One line about what audits had found when the last hour began."""
    audits = network["audits"]
    as_of = time.strftime("%m-%d %H:%M", time.localtime(audits["as_of_unix_s"]))
    return (
        f"audits until {as_of}: {audits['right'] + audits['wrong']} of {audits['results']} results, "
        f"{audits['wrong']} wrong; {audits['dropped']} results passed over"
    )


def show(network: dict[str, Any]) -> None:
    """Prints a network for people: a table on a terminal, plain columns elsewhere."""
    emit(f"model    {network['model']}")
    emit(coverage_line(network))
    emit(counters_line(network))
    if network.get("self_host"):
        emit(own_line(network))
    if "audits" in network:
        emit(audits_line(network))
    head = ("node", "name", "state", "since", "experts", "held", "round trip", "verified", "rejected")
    rows = [_row(node) for node in network["nodes"]]
    if not rows:
        emit("no node has joined yet")
    elif sys.stdout.isatty():
        _table(head, rows)
    else:
        for row in (head, *rows):
            emit("\t".join(row))


def _row(node: dict[str, Any]) -> tuple[str, ...]:
    round_trip = node["round_trip_ms"]
    return (
        node["id"][:SHORT_ID],
        node["name"],
        _state(node),
        time.strftime("%m-%d %H:%M:%S", time.localtime(node["since_unix_s"]))
        if "since_unix_s" in node
        else "-",
        f"{node['experts']}/{node['experts_assigned']}",
        f"{format_bytes(node['held_bytes'])} of {format_bytes(node['memory_bytes'])}",
        "-" if round_trip is None else f"{round_trip:.1f} ms",
        str(node["results_verified"]),
        str(node["results_rejected"]),
    )


def _state(node: dict[str, Any]) -> str:
    """Where a node stands; why and since when, where that needs saying."""
    standing, state = node.get("standing", "member"), str(node["state"])
    reason = node.get("reason", "")
    if standing in ("quarantined", "banned"):
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(node["standing_since_unix_s"]))
        return f"{standing} since {since} ({node['standing_reason']})"
    if standing == "probation":
        state += ", on probation"
    return f"{state} ({reason})" if reason else state


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*head)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)
