"""Progress says sizes, rate and time left, on standard error, whatever that is."""

from __future__ import annotations

import pytest

from folkmoot.amounts import format_bytes
from folkmoot.cli import progress
from folkmoot.cli.progress import BarProgress, LineProgress


def test_lines_come_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: clock[0])
    lines = LineProgress()
    lines.start("hashing", 400 << 20)
    for _ in range(4):
        clock[0] += 2
        lines.advance(100 << 20)
    lines.finish()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "hashing (400.0 MiB)",
        "hashing: 200.0 MiB of 400.0 MiB (50%), 50.0 MiB/s, 4 s left",
        "hashing: 400.0 MiB of 400.0 MiB (100%), 50.0 MiB/s",
    ]


def test_lines_without_a_known_size(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: clock[0])
    lines = LineProgress()
    lines.start("fetching", None)
    clock[0] = 4
    lines.advance(4096)
    assert capsys.readouterr().err.splitlines() == ["fetching", "fetching: 4.0 KiB, 1.0 KiB/s"]


def test_short_work_says_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = LineProgress()
    lines.start("hashing", 10)
    lines.advance(10)
    lines.finish()
    assert capsys.readouterr().err == "hashing (10 B)\n"


def test_bars_draw_on_standard_error_and_may_start_again(capsys: pytest.CaptureFixture[str]) -> None:
    bars = BarProgress()
    for label in ("hashing", "writing"):
        bars.start(label, 1 << 20)
        bars.advance(1 << 20)
        bars.finish()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hashing" in captured.err
    assert "writing" in captured.err


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB")],
)
def test_amounts(amount: int, text: str) -> None:
    assert format_bytes(amount) == text
