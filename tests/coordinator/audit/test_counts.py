"""What of audits is told to whom: to everybody sums of the last hour, which do not say how openings looked; to the operator all, in a file of
its own."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from folkmoot.cli.main import run
from folkmoot.coordinator.audit.counters import AuditCounters, AuditOutcome
from folkmoot.coordinator.audit.private_counts import COUNTS_FILE, PrivateCounts
from folkmoot.coordinator.audit.published_counts import PUBLISHED_EVERY_S, PublishedCounts
from folkmoot.coordinator.dispatch.challenge import Unopened


class Hours:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def one_of_each(counters: AuditCounters) -> None:
    counters.looked_at()
    counters.challenged()
    counters.suspected()
    counters.dropped()
    for outcome in AuditOutcome:
        counters.ended(outcome)
    for why in Unopened:
        counters.unopened(why)


def test_everybody_sees_the_last_hour_and_not_how_openings_looked() -> None:
    counters, hours = AuditCounters(), Hours()
    published = PublishedCounts(counters.totals, lambda: 1e6 + hours.now_s, hours)
    before = {"as_of_unix_s": 1_000_000, "results": 0, "right": 0, "wrong": 0, "dropped": 0}
    one_of_each(counters)
    for hours.now_s in (0.0, PUBLISHED_EVERY_S - 1):
        published.look()
        assert published.document() == before
    hours.now_s = PUBLISHED_EVERY_S
    assert published.document() == before, "who asks does not choose when"
    published.look()
    after = {"as_of_unix_s": 1_003_600, "results": 1, "right": 2, "wrong": 1, "dropped": 1}
    assert published.document() == after
    one_of_each(counters)
    published.look()
    assert published.document() == after


@pytest.mark.parametrize("looked", [AuditOutcome.PASSED, AuditOutcome.CLEARED])
def test_a_suspicion_that_was_cleared_looks_like_a_pass(looked: AuditOutcome) -> None:
    counters, hours = AuditCounters(), Hours()
    published = PublishedCounts(counters.totals, hours, hours)
    if looked is AuditOutcome.CLEARED:
        counters.suspected()
    counters.ended(looked)
    hours.now_s = PUBLISHED_EVERY_S
    published.look()
    assert published.document() == {"as_of_unix_s": 3600, "results": 0, "right": 1, "wrong": 0, "dropped": 0}


def test_the_operator_sees_all_of_it_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counters = AuditCounters()
    one_of_each(counters)
    counts = PrivateCounts(tmp_path, counters.totals, PublishedCounts(counters.totals))
    counts.write()
    path = tmp_path / COUNTS_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert run(["coordinator", "audits", "--state", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for line in (
        "folkmoot_audit_suspicions_total 1.0",
        'folkmoot_audits_total{outcome="cleared"} 1.0',
        'folkmoot_audit_unopened_total{reason="late"} 1.0',
    ):
        assert line in printed.splitlines()
    written_ns = path.stat().st_mtime_ns
    counts.write()
    assert path.stat().st_mtime_ns == written_ns, "nothing is new"


def test_a_disk_that_takes_nothing_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counters = AuditCounters()
    counts = PrivateCounts(tmp_path / "nowhere", counters.totals, PublishedCounts(counters.totals))
    counts.write()
    assert "audits.prom cannot be written" in caplog.text


def test_where_nothing_is_audited_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["coordinator", "audits", "--state", str(tmp_path)]) == 2
    assert "name the state folder of a coordinator that audits" in capsys.readouterr().err
