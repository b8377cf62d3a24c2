"""`--self-host` takes an amount of memory as people write it, and `folkmoot status` says what came of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from folkmoot.cli.status import own_line
from folkmoot.coordinator.settings import CoordinatorSettings
from folkmoot.settings_base import SettingsError


@pytest.mark.parametrize(("text", "amount"), [("8GiB", 8 << 30), ("512MiB", 512 << 20), (None, 0)])
def test_an_amount_of_memory(text: str | None, amount: int) -> None:
    assert CoordinatorSettings.load(model=Path("model"), self_host_bytes=text).self_host_bytes == amount


def test_it_can_be_set_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLKMOOT_COORDINATOR_SELF_HOST_BYTES", "2GiB")
    assert CoordinatorSettings.load(model=Path("model")).self_host_bytes == 2 << 30


@pytest.mark.parametrize("text", ["much", "-1GiB", "0"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="self_host_bytes.*is no amount of memory"):
        CoordinatorSettings.load(model=Path("model"), self_host_bytes=text)


def test_status_says_what_the_coordinator_hosts() -> None:
    network = {
        "self_host": {"experts": 12, "experts_assigned": 12, "held_bytes": 3 << 20, "memory_bytes": 8 << 30},
        "counters": {"results_own": 34},
    }
    assert (
        own_line(network)
        == "hosted by the coordinator itself: 12 experts, 3.0 MiB of 8.0 GiB; 34 results of its own"
    )
