"""A process that finds a verdict and is killed before anything follows from it.

Guarantees: the evidence is on disk then, and the books know nothing of the verdict; what it is told to keep lies in one folder.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final, NoReturn

from folkmoot.coordinator.audit.standing_book import StandingBook
from folkmoot.ids import NodeId
from folkmoot.tests.support.asked_node import Misconduct
from folkmoot.tests.support.kept_books import books_in
from folkmoot.tests.support.running_auditor import running_auditor
from folkmoot.trust.keys import Identity
from folkmoot.trust.standing import StandingSettings

COORDINATOR_KEY: Final = "identity.key"
NODE_KEY: Final = "node.key"


class KilledBook(StandingBook):
    """The process ends with the first verdict."""

    def convicted(self, node: NodeId, what: str, decided_s: float = 0.0) -> NoReturn:
        """Is not heard of."""
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("nothing comes after SIGKILL")


def judge_and_die(folder: Path) -> None:
    """A member cheats, and is found out, and the process is killed."""
    identity, node_key = (
        Identity.load_or_create(folder / COORDINATOR_KEY),
        Identity.load_or_create(folder / NODE_KEY),
    )
    with books_in(folder, identity.public) as books:
        standings = KilledBook(books.standings, StandingSettings(probation_audits=1))
        standings.met(node_key.node_id, "oak")
        standings.audit_passed(node_key.node_id)
        with running_auditor(folder, identity=identity, standings=standings) as audits:
            audits.auditor.watch(audits.node(Misconduct.SCALED_OUTPUT, identity=node_key).result(1, rows=4))
            audits.ended(1)
