"""Numbers of epochs never come back: not when the calendar is set back or forth, not after a restart, a kill or a loss of the file; who
asks for a new one gets one, an hour after the last at the earliest."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.coordinator.audit import epochs as module
from folkmoot.coordinator.audit.canonical_weights import CanonicalExperts
from folkmoot.coordinator.audit.epochs import EPOCH_FILE, RENEWED_EVERY_S, Epochs
from folkmoot.coordinator.audit.sketch_keeper import SketchKeeper
from folkmoot.tests.support.memory_experts import MemoryExperts

PERIOD_S = 100.0


class Clocks:
    """A calendar that tests set, and seconds that pass."""

    def __init__(self, folder: Path, now_s: float = 1000.0) -> None:
        self.folder = folder
        self.now_s = now_s
        self.passed_s = 0.0

    def epochs(self) -> Epochs:
        """As after a start."""
        return Epochs(self.folder, PERIOD_S, lambda: self.now_s, lambda: self.passed_s)


def test_a_period_of_the_calendar_is_an_epoch(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path)
    epochs = clocks.epochs()
    assert epochs.number == 10
    clocks.now_s = 1099.0
    assert (epochs.number, clocks.epochs().number) == (10, 10)
    clocks.now_s = 1500.0
    assert (epochs.number, clocks.epochs().number) == (15, 15)


def test_a_calendar_that_is_set_back_brings_no_number_back(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path, 5000.0)
    epochs = clocks.epochs()
    assert epochs.number == 50
    clocks.now_s = 4999.0
    assert (epochs.number, clocks.epochs().number) == (50, 50), "over the edge, by a second"
    clocks.now_s = 1000.0
    assert epochs.number == 51, "what was made for the future must not be kept until then"
    assert clocks.epochs().number == 51
    clocks.now_s = 1100.0
    assert (epochs.number, clocks.epochs().number) == (52, 52)


def test_who_asks_gets_one_once_an_hour(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path)
    epochs = clocks.epochs()
    epochs.renew(9)
    assert epochs.number == 10, "that one is spent already"
    epochs.renew(10)
    assert epochs.number == 11
    epochs.renew(10)
    epochs.renew(11)
    clocks.passed_s = RENEWED_EVERY_S - 1
    assert epochs.number == 11
    clocks.passed_s = RENEWED_EVERY_S
    assert (epochs.number, epochs.number, clocks.epochs().number) == (12, 12, 12)


def test_a_number_that_cannot_be_kept_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(tmp_path)
    epochs = clocks.epochs()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    epochs.renew(10)
    with monkeypatch.context() as failing:
        failing.setattr(module, "write_private", full)
        assert epochs.number == 10
        clocks.now_s = 1100.0
        assert epochs.number == 10
    assert (epochs.number, clocks.epochs().number) == (11, 11)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[" * 4096, b'{"format":"folkmoot-epoch/1"}'])
def test_without_its_file_the_sketches_say_it(tmp_path: Path, content: bytes | None) -> None:
    clocks = Clocks(tmp_path, 5000.0)
    (tmp_path / "0123456789abcdef-8-51").mkdir()
    (tmp_path / "fedcba9876543210-8-7").mkdir()
    if content is not None:
        (tmp_path / EPOCH_FILE).write_bytes(content)
    clocks.now_s = 1000.0
    assert clocks.epochs().number == 51


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(("calendar", "passes", "renew", "restart")), st.integers(0, 4000)),
        max_size=40,
    )
)
def test_numbers_only_grow(tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, int]]) -> None:
    clocks = Clocks(tmp_path_factory.mktemp("epochs"))
    epochs = clocks.epochs()
    last = epochs.number
    for event, value in events:
        match event:
            case "calendar":
                clocks.now_s = value
            case "passes":
                clocks.passed_s += value
            case "renew":
                epochs.renew(epochs.number)
            case "restart":
                epochs = clocks.epochs()
        assert epochs.number >= last
        last = epochs.number


def test_spent_projections_never_come_back(tmp_path: Path) -> None:
    model, clocks, seen = MemoryExperts(), Clocks(tmp_path), list[str]()
    for clocks.now_s in (1000.0, 1100.0, 500.0, 1000.0, 1100.0):
        keeper = SketchKeeper(tmp_path, CanonicalExperts(model), 4, PERIOD_S, lambda: clocks.now_s)
        keeper.refresh()
        seen.append(keeper.current.projections(0).identity.hex())
    assert len(set(seen)) == len(seen), "each time the calendar moved, either way, there are new ones"


def test_projections_that_may_be_known_are_replaced_in_the_background(tmp_path: Path) -> None:
    keeper = SketchKeeper(tmp_path, CanonicalExperts(MemoryExperts()), 4, PERIOD_S, lambda: 1000.0)
    keeper.refresh()
    spent = keeper.current
    keeper.renew(spent)
    assert keeper.current is spent, "until the others are whole"
    keeper.refresh()
    assert keeper.current.epoch == spent.epoch + 1
    assert keeper.current.projections(0).identity != spent.projections(0).identity
    keeper.renew(spent)
    keeper.refresh()
    assert keeper.current.epoch == spent.epoch + 1
