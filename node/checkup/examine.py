"""All that is looked at, in one order.

Guarantees: nothing of the node's state is changed; a node that runs meanwhile goes on, and what it holds is reckoned with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from ...errors import FolkmootError
from ..control import NoNodeRunsError, ask
from ..joined import Joined, JoinedBook
from ..machine import lendable_memory_bytes
from ..settings import NodeSettings
from . import disk, machine, network, speed
from .finding import Finding, fit, note, to_mend


def examine(settings: NodeSettings) -> Iterator[Finding]:
    """Findings, as they come."""
    yield machine.compiler()
    yield machine.instruction_sets()
    yield machine.kernels()
    yield machine.threads(settings)
    held_bytes, running = _running(settings)
    yield machine.memory(settings, held_bytes)
    yield machine.huge_pages()
    yield disk.identity(settings)
    yield disk.room(settings)
    yield disk.speed(settings)
    try:
        joined = _joined(settings)
    except FolkmootError as error:
        yield to_mend("coordinators", error.message, error.advice or "join them again")
    else:
        yield from asyncio.run(network.coordinators(joined, settings.connect_timeout_s))
    yield running
    yield _throughput(settings)


def _running(settings: NodeSettings) -> tuple[int, Finding]:
    """Bytes of experts that a running node holds, and whether one runs."""
    try:
        document = ask(settings.state_dir, "status")
    except NoNodeRunsError:
        return 0, note("node", "does not run now")
    except FolkmootError as error:
        return 0, to_mend("node", error.message, error.advice or "start it again")
    ended = [one for one in document["coordinators"] if one["ended"]]
    if ended:
        return 0, to_mend(
            "node", f"runs, but not for {ended[0]['name']}: {ended[0]['ended']}", "ask the operator"
        )
    held_bytes = sum(one["bytes_held"] for one in document["coordinators"])
    return held_bytes, fit("node", f"runs as process {document['pid']}")


def _joined(settings: NodeSettings) -> tuple[Joined, ...]:
    joined = JoinedBook(settings.state_dir).all()
    if settings.invite and settings.invite not in [one.invite for one in joined]:
        return (*joined, Joined("of the settings", settings.invite, 0))
    return joined


def _throughput(settings: NodeSettings) -> Finding:
    size = min(speed.WORKING_SET_BYTES, lendable_memory_bytes() // 2)
    try:
        return speed.measure(settings.threads, size).finding()
    except MemoryError:
        return note("throughput", "not measured: there is no memory for it")
