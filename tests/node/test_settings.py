"""Flag over environment over file over default; what is wrong is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from folkmoot.home import folkmoot_home
from folkmoot.ids import NodeId
from folkmoot.node.settings import NodeSettings
from folkmoot.settings_base import SettingsError


def test_flags_beat_the_environment_which_beats_the_file_which_beats_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = folkmoot_home() / "node.toml"
    file.write_text('memory_bytes = "1GiB"\nthreads = 3\nname = "from the file"\n')
    monkeypatch.setenv("FOLKMOOT_NODE_MEMORY_BYTES", "2GiB")
    monkeypatch.setenv("FOLKMOOT_NODE_THREADS", "5")
    settings = NodeSettings.load(invite="folkmoot1-x", memory_bytes="3GiB", name=None)
    assert settings.memory_bytes == 3 << 30
    assert settings.threads == 5
    assert settings.name == "from the file"
    assert settings.disk_bytes == 6 << 30
    assert settings.state_dir == folkmoot_home() / "node"


def test_settings_do_not_change() -> None:
    settings = NodeSettings.load(invite="folkmoot1-x")
    assert settings.threads >= 1
    assert settings.memory_bytes > 0
    with pytest.raises(ValidationError, match="frozen"):
        settings.threads = 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"hours": "22-7"}, "hours: .*write them like 22:00-07:00"),
        ({"download_bytes_per_s": "fast"}, "download_bytes_per_s: .*40Mbit/s"),
        ({"log_format": "xml"}, "log_format"),
        ({"invite": "x", "memory_bytes": "lots"}, "memory_bytes: .*write it like 4GiB"),
        ({"invite": "x", "memory_bytes": 0}, "memory_bytes"),
        ({"invite": "x", "threads": 0}, "threads"),
        ({"invite": "x", "name": "n" * 65}, "name"),
        ({"invite": "x", "memory": "4GiB"}, "memory: Extra"),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(flags: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as error:
        NodeSettings.load(**flags)
    assert "\n" not in str(error.value)
    assert "factory" not in str(error.value)
    assert "FOLKMOOT_NODE_" in error.value.advice


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    file = folkmoot_home() / "node.toml"
    file.write_text("threads = = 3")
    with pytest.raises(SettingsError, match=r"node\.toml"):
        NodeSettings.load(invite="x")
    file.write_bytes(b"name = '\xff'")
    with pytest.raises(SettingsError, match=r"node\.toml"):
        NodeSettings.load(invite="x")
    file.write_text("treads = 3")
    with pytest.raises(SettingsError, match="treads"):
        NodeSettings.load(invite="x")


def test_what_is_lent_stays_within_the_machine_and_the_disk_follows() -> None:
    settings = NodeSettings(invite="x", memory_bytes=500 << 30)
    assert settings.within(500 << 30) is settings
    within = settings.within(3 << 30)
    assert (within.memory_bytes, within.disk_bytes) == (3 << 30, 6 << 30)
    assert within.invite == "x"


def test_a_limit_of_the_disk_that_was_given_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLKMOOT_NODE_DISK_BYTES", "9GiB")
    assert NodeSettings.load(invite="x", memory_bytes="500GiB").within(3 << 30).disk_bytes == 9 << 30


def test_rates_and_hours_are_read_from_files_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    (folkmoot_home() / "node.toml").write_text(
        'hours = ["22:00-07:00", "12:00-13:00"]\nupload_bytes_per_s = "8Mbit/s"\n'
    )
    monkeypatch.setenv("FOLKMOOT_NODE_DOWNLOAD_BYTES_PER_S", "2MiB/s")
    settings = NodeSettings.load()
    assert str(settings.hours) == "22:00-07:00, 12:00-13:00"
    assert (settings.download_bytes_per_s, settings.upload_bytes_per_s) == (2 << 20, 1_000_000)
    monkeypatch.setenv("FOLKMOOT_NODE_HOURS", "01:00-02:00,03:00-04:00")
    assert str(NodeSettings.load().hours) == "01:00-02:00, 03:00-04:00"


def test_names_are_shown_as_the_contributor_wishes() -> None:
    node = NodeId("ab" * 32)
    assert NodeSettings().shown(node) == "node-abababababab"
    assert NodeSettings(name="kitchen").shown(node) == "kitchen"
    private = NodeSettings(name="kitchen", public_name="pseudonym")
    assert (private.called(node), private.shown(node)) == ("kitchen", "node-abababababab")
    assert NodeSettings(name="kitchen", public_name="Ada").shown(node) == "Ada"
