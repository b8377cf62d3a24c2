"""A process that audits by turns does so in every second window and in no other; no other process is touched."""

from __future__ import annotations

import subprocess
import sys

from folkmoot.bench import audits_by_turns
from folkmoot.bench.audits_by_turns import WINDOW_S, audited_at
from folkmoot.coordinator.audit.auditor import Auditor

SCRIPT = """
import time
from folkmoot.bench import audits_by_turns
from folkmoot.bench.audits_by_turns import WINDOW_S
from folkmoot.coordinator.audit.auditor import Auditor
seen = []
Auditor.watch = lambda self, verified: seen.append("watched")
Auditor._ask = lambda self: seen.append("asked")
Auditor._pause_s = lambda self: 0.0
audits_by_turns.take_turns()
for moment_s in (0.5, WINDOW_S + 0.5):
    time.monotonic = lambda: moment_s
    Auditor.watch(None, None)
    Auditor._ask(None)
    print(seen, Auditor._pause_s(None) > 0)
"""


def test_every_second_window_is_audited() -> None:
    assert [audited_at(window * WINDOW_S + 0.1) for window in range(4)] == [True, False, True, False]
    done = subprocess.run([sys.executable, "-P", "-c", SCRIPT], capture_output=True, text=True, check=True)
    once = "['watched', 'asked']"
    assert done.stdout == f"{once} False\n{once} True\n", (
        "in the second window nothing is added, and nothing spins"
    )


def test_this_process_audits_always() -> None:
    assert Auditor.watch.__module__ == Auditor.__module__ != audits_by_turns.__name__
