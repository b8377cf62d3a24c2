"""A process whose trust takes turns leaves out what its windows say and nothing else, its two ends agree about each frame, no other
process is touched; and what is measured is the ratio that the windows had."""

from __future__ import annotations

import subprocess
import sys

import pytest

from folkmoot.bench import trust_by_turns
from folkmoot.bench.trust_by_turns import WINDOW_S, Trust, audited_s, trust_at
from folkmoot.bench.trust_cost import Windows
from folkmoot.coordinator.audit.auditor import Auditor
from folkmoot.errors import FolkmootError
from folkmoot.trust.keys import Identity
from folkmoot.trust.statements import ResultStatement, tensor_digest

AUDITS = """
import time
from folkmoot.bench import trust_by_turns
from folkmoot.bench.trust_by_turns import WINDOW_S
from folkmoot.coordinator.audit.auditor import Auditor
from folkmoot.coordinator.audit.pace import Pace
seen = []
Auditor.watch = lambda self, verified: seen.append("watched")
Auditor._ask = lambda self: seen.append("asked")
Auditor._pause_s = lambda self: 0.0
trust_by_turns.take_turns()
for window in range(3):
    time.monotonic = lambda: (window + 0.5) * WINDOW_S
    Auditor.watch(None, None)
    Auditor._ask(None)
    print(seen, Auditor._pause_s(None) > 0)
pace = Pace(1.0, 0.0)
pace.worked(0.0)
pace.took(9 * WINDOW_S, 0.0, 0.0)
pace.worked(3 * WINDOW_S)
print(pace._credit_s, pace.wait_s(3 * WINDOW_S), pace._credit_s)
"""

SIGNATURES = """
import time
from math import ceil
from types import SimpleNamespace
from folkmoot.bench import trust_by_turns
from folkmoot.bench.trust_by_turns import WINDOW_S
from folkmoot.coordinator.dispatch import acceptance, answering
from folkmoot.coordinator.hub.link import Link
from folkmoot.node.executor import Executor
from folkmoot.trust.keys import Identity, SignatureError
from folkmoot.trust.statements import ResultStatement, tensor_digest
identity = Identity.generate()
result = ResultStatement(bytes(32), bytes(32), 0).encode()
def answer(self, frame):
    return identity.sign(result), identity.sign(b"a ticket"), tensor_digest(1, (1,), b"a"), tensor_digest(1, (1,), b"b")
def check(signature, output, expected):
    identity.verifying_key.verify(signature, result)
    return tensor_digest(1, (1,), b"a")
Executor.answer, acceptance.check, Link.deadline_s = answer, check, lambda self, rows: 10.02
trust_by_turns.take_turns()
for window in range(3):
    time.monotonic = lambda: (window + 0.5) * WINDOW_S
    frame = SimpleNamespace(deadline_ms=ceil(1000 * Link.deadline_s(None, 1)))
    signature, ticket, one, other = Executor.answer(None, frame)
    identity.verifying_key.verify(ticket, b"a ticket")
    accepted = answering.check(signature, None, SimpleNamespace(task=frame))
    print(frame.deadline_ms, signature == bytes(64), one == other, accepted == one)
try:
    answering.check(bytes(64), None, SimpleNamespace(task=SimpleNamespace(deadline_ms=10020)))
except SignatureError:
    print("checked")
"""


def _printed(script: str) -> list[str]:
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_each_way_has_its_window() -> None:
    windows = [trust_at((window + 0.1) * WINDOW_S) for window in range(4)]
    assert windows == [Trust.EVERYTHING, Trust.SIGNATURES, Trust.NOTHING, Trust.EVERYTHING]
    assert audited_s(0.5 * WINDOW_S, 3.25 * WINDOW_S) == pytest.approx(0.75 * WINDOW_S)


def test_one_window_of_three_is_audited_and_no_time_is_earned_in_the_others() -> None:
    once = "['watched', 'asked']"
    credit, wait, later = _printed(AUDITS)[-1].split()
    assert _printed(AUDITS)[:3] == [f"{once} False", f"{once} True", f"{once} True"]
    assert float(later) == pytest.approx(float(credit) + WINDOW_S), "one of the three windows counts"
    assert float(wait) > 0


def test_both_ends_leave_out_the_signatures_of_the_same_frames() -> None:
    assert _printed(SIGNATURES) == [
        "10020 False False True",
        "10020 False False True",
        "10021 True True True",
        "checked",
    ]


def test_this_process_signs_and_audits_always() -> None:
    identity, result = Identity.generate(), ResultStatement(bytes(32), bytes(32), 0).encode()
    assert identity.sign(result) != bytes(64)
    assert tensor_digest(1, (1,), b"a") != tensor_digest(1, (1,), b"b")
    assert Auditor.watch.__module__ == Auditor.__module__ != trust_by_turns.__name__


def arrivals(rounds: int, gap_s: dict[Trust, float]) -> list[float]:
    """When the tokens of a stream come that takes so long from one to the next in each way's windows."""
    times = [0.0]
    while times[-1] < rounds * len(Trust) * WINDOW_S:
        times.append(times[-1] + gap_s[trust_at(times[-1])])
    return times


def test_the_parts_are_the_ratios_of_the_windows() -> None:
    gap_s = {Trust.EVERYTHING: 0.12, Trust.SIGNATURES: 0.11, Trust.NOTHING: 0.1}
    windows = Windows()
    windows.watch([arrivals(3, gap_s), [time_s + 0.01 for time_s in arrivals(3, gap_s)]])
    report = windows.report()
    assert report["rounds"] == 3
    assert report["token_to_token_ms"]["neither"] == pytest.approx(100)
    parts = {part: ratio["throughput_ratio"] for part, ratio in report["parts"].items()}
    assert parts["everything / neither"] == pytest.approx(0.1 / 0.12, rel=1e-3)
    assert parts["signatures / neither"] == pytest.approx(0.1 / 0.11, rel=1e-3)
    assert parts["everything / signatures"] == pytest.approx(0.11 / 0.12, rel=1e-3)
    assert report["parts"]["everything / neither"]["standard_error"] == pytest.approx(0, abs=1e-6)


def test_too_few_windows_are_no_measurement() -> None:
    windows = Windows()
    windows.watch([arrivals(1, dict.fromkeys(Trust, 0.1))])
    with pytest.raises(FolkmootError, match="after 1 rounds"):
        windows.report()
