"""The wizard: defaults that suit the machine, answers that are asked for again, and a file that the settings read."""

from __future__ import annotations

import errno
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from folkmoot.errors import UsageError
from folkmoot.node import wizard
from folkmoot.node.settings import NodeSettings
from folkmoot.node.wizard import SettingsExistError, answer_all, questions, round_amount, to_toml, write


def no_complaint(text: str) -> None:
    raise AssertionError(text)


def settings_of(text: str) -> NodeSettings:
    NodeSettings.file().write_text(text)
    return NodeSettings.load()


def test_the_defaults_are_settings_that_suit_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wizard, "default_memory_bytes", lambda: (5 << 30) + 123)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 8 << 30})())
    settings = settings_of(to_toml(answer_all({}, None, no_complaint)))
    assert (settings.memory_bytes, settings.disk_bytes) == (5 << 30, 4 << 30)
    assert settings.hours.stretches == ()
    assert (settings.download_bytes_per_s, settings.upload_bytes_per_s) == (0, 0)
    assert settings.public_name == "pseudonym"
    assert settings.state_dir == NodeSettings().state_dir


def test_answers_are_asked_for_again_with_the_reason_until_they_make_sense(tmp_path: Path) -> None:
    script = {
        "call this machine": iter(["kit\x07chen", 'the "old" kitchen \\ cellar']),
        "everybody": iter(["Ada"]),
        "keys and experts": iter([str(tmp_path / "state")]),
        "memory": iter(["lots", "3GiB"]),
        "disk": iter(["10GB"]),
        "threads": iter(["none", "0", "2"]),
        "download": iter(["fast", "40Mbit/s"]),
        "upload": iter([""]),
        "hours": iter(["at night", "22:00-07:00, 12:00-13:00"]),
    }
    complaints: list[str] = []

    def ask(text: str, default: str) -> str:
        assert default
        answers: Iterator[str] = next(value for key, value in script.items() if key in text)
        return next(answers)

    settings = settings_of(to_toml(answer_all({}, ask, complaints.append)))
    assert len(complaints) == 6
    assert settings.name == 'the "old" kitchen \\ cellar'
    assert settings.public_name == "Ada"
    assert settings.state_dir == tmp_path / "state"
    assert (settings.memory_bytes, settings.disk_bytes, settings.threads) == (3 << 30, 10**10, 2)
    assert (settings.download_bytes_per_s, settings.upload_bytes_per_s) == (5_000_000, 0)
    assert str(settings.hours) == "22:00-07:00, 12:00-13:00"


def test_what_is_given_is_not_asked_and_is_checked() -> None:
    given = {
        question.setting: question.default({"state_dir": "/tmp", "memory_bytes": "1GiB"})
        for question in questions()
    }

    def ask(text: str, default: str) -> str:
        raise AssertionError(text)

    assert answer_all(given, ask, no_complaint) == given
    with pytest.raises(UsageError, match="4GiB"):
        answer_all({**given, "memory_bytes": "lots"}, ask, no_complaint)


def test_folders_that_cannot_be_used_are_answers_that_make_no_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (check,) = [question.check for question in questions() if question.setting == "state_dir"]
    with pytest.raises(UsageError, match=r"~no-such-user/x cannot be used"):
        check("~no-such-user/x")

    def denied(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(UsageError, match=r"cannot be used \(Permission denied\)"):
        check(str(tmp_path / "state"))


def test_a_file_that_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "home" / "node.toml"
    write(path, "threads = 1\n", replace=False)
    with pytest.raises(SettingsExistError, match=r"node\.toml is there already: .*--force"):
        write(path, "threads = 2\n", replace=False)
    assert tomllib.loads(path.read_text()) == {"threads": 1}
    write(path, "threads = 2\n", replace=True)
    assert tomllib.loads(path.read_text()) == {"threads": 2}
    assert [file.name for file in path.parent.iterdir()] == ["node.toml"]


@pytest.mark.parametrize(
    ("amount", "text"), [(5 << 30, "5GiB"), ((7 << 30) - 1, "6.75GiB"), (300 << 20, "300MiB"), (999, "999")]
)
def test_amounts_are_rounded_down_to_what_people_write(amount: int, text: str) -> None:
    assert round_amount(amount) == text
