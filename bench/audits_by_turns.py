"""`folkmoot` that audits in every second window of time: what the benchmark of trust's cost compares within one network.

Guarantees: only a process that was started as this module behaves so; nothing of the package can be told to. In the other windows the
auditor sees no results, and asks for no openings but of what somebody waits for; what is under way ends as it would. So what audits cost
is spread a little beyond their windows, and a window begins with as much credit for audits as a quiet node has.

A machine that others use too is faster in one minute than in the next, and one process's memory may be faster than another's: windows of
the same processes, some seconds apart, have neither in common.
"""

from __future__ import annotations

import time
from typing import Final

from ..cli import main
from ..coordinator.audit.auditor import Auditor
from ..coordinator.dispatch.verified_result import VerifiedResult

PROGRAM: Final = "folkmoot.bench.audits_by_turns"
WINDOW_S: Final = 3.0


def audited_at(moment_s: float) -> bool:
    """Whether results are audited at a moment of the monotonic clock, which all processes of a machine share."""
    return int(moment_s / WINDOW_S) % 2 == 0


def take_turns() -> None:
    """From now on this process audits in every second window alone."""
    watch, ask, pause_s = Auditor.watch, Auditor._ask, Auditor._pause_s

    def watch_now(self: Auditor, verified: VerifiedResult) -> None:
        if audited_at(time.monotonic()):
            watch(self, verified)

    def ask_now(self: Auditor) -> None:
        if audited_at(time.monotonic()):
            ask(self)

    def pause_now_s(self: Auditor) -> float:
        now_s = time.monotonic()
        return pause_s(self) if audited_at(now_s) else max(pause_s(self), WINDOW_S - now_s % WINDOW_S)

    Auditor.watch = watch_now  # type: ignore[method-assign]
    Auditor._ask = ask_now  # type: ignore[method-assign]
    Auditor._pause_s = pause_now_s  # type: ignore[method-assign]


if __name__ == "__main__":
    take_turns()
    main.main()
