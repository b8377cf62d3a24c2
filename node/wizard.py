"""What a contributor is asked before a node runs for the first time, and the settings file that the answers make.

Guarantees: every question has a default that suits this machine; an answer that the node's settings would refuse is asked for
again, with the reason; the file holds exactly what was answered, says of each line what it means, and replaces another one
only where that was asked for, and then as a whole.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..amounts import parse_bytes
from ..disk import disk_errors
from ..errors import UsageError
from ..home import folkmoot_home
from .folders import full_path, nearest_existing
from .hours import Hours
from .limits import UNLIMITED, parse_rate
from .machine import default_memory_bytes, default_threads
from .settings import PSEUDONYM

ALWAYS: Final = "always"
DISK_SHARE: Final = 0.5
"""The part of the free disk that the default takes at most."""
MAX_NAME: Final = 64
_STEPS: Final = ((1 << 30, "GiB"), (1 << 20, "MiB"))


class SettingsExistError(UsageError):
    """There is a settings file already."""


class AnswerError(UsageError):
    """An answer that makes no sense."""


Answers = Mapping[str, str]


@dataclass(frozen=True)
class Question:
    """One thing to be asked.

    Attributes:
        setting: The setting's name.
        text: The question.
        meaning: What the line of the file says of it.
        default: Given the answers so far.
        check: Raises UsageError for an answer that makes no sense.
    """

    setting: str
    text: str
    meaning: str
    default: Callable[[Answers], str]
    check: Callable[[str], object]


def questions() -> tuple[Question, ...]:
    """All of them, in the order in which they are asked."""
    return (
        Question(
            "name",
            "What do you call this machine?",
            "how this node calls itself in its log and its status",
            lambda _: socket.gethostname().partition(".")[0][:MAX_NAME],
            _check_name,
        ),
        Question(
            "public_name",
            f"By which name may everybody see it? ({PSEUDONYM}: one made from its key)",
            f'what everybody sees; "{PSEUDONYM}" is one made from the node\'s key',
            lambda _: PSEUDONYM,
            _check_name,
        ),
        Question(
            "state_dir",
            "Where shall keys and experts be kept?",
            "keys, experts, receipts; keep identity.key, it is who you are",
            lambda _: str(folkmoot_home() / "node"),
            _check_folder,
        ),
        Question(
            "memory_bytes",
            "How much memory may experts take?",
            "the most memory for experts",
            lambda _: round_amount(default_memory_bytes()),
            parse_bytes,
        ),
        Question("disk_bytes", "How much disk?", "the most disk for experts", _default_disk, parse_bytes),
        Question(
            "threads",
            "How many threads may compute?",
            "threads that compute",
            lambda _: str(default_threads()),
            _check_threads,
        ),
        Question(
            "download_bytes_per_s",
            f"How fast may it download? (like 40Mbit/s, or {UNLIMITED})",
            f'the most it downloads, like "40Mbit/s", or "{UNLIMITED}"',
            lambda _: UNLIMITED,
            parse_rate,
        ),
        Question(
            "upload_bytes_per_s",
            f"How fast may it upload? (like 10Mbit/s, or {UNLIMITED})",
            f'the most it uploads, like "10Mbit/s", or "{UNLIMITED}"',
            lambda _: UNLIMITED,
            parse_rate,
        ),
        Question(
            "hours",
            f"At which hours of the day? (like 22:00-07:00, or {ALWAYS})",
            'when it works, like ["22:00-07:00"], local time; it pauses outside of them; [] is always',
            lambda _: ALWAYS,
            _hours,
        ),
    )


def answer_all(
    given: Answers,
    ask: Callable[[str, str], str] | None,
    complain: Callable[[str], None],
) -> dict[str, str]:
    """An answer to every question.

    Args:
        given: What is known already, by setting; it is not asked.
        ask: Shows a question and its default, and returns what was answered; None takes the defaults.
        complain: Says why an answer is asked for again.

    Raises:
        UsageError: when what was given makes no sense.
    """
    answers: dict[str, str] = {}
    for question in questions():
        if question.setting in given:
            question.check(given[question.setting])
            answers[question.setting] = given[question.setting]
            continue
        default = question.default(answers)
        answers[question.setting] = default if ask is None else _asked(question, default, ask, complain)
    return answers


def to_toml(answers: Answers) -> str:
    """The settings file of these answers."""
    lines = ["# How this node behaves: `folkmoot node init` wrote it, and you may change it.", ""]
    for question in questions():
        lines += [f"# {question.meaning}", f"{question.setting} = {_value(question.setting, answers)}"]
    return "\n".join(lines) + "\n"


def write(path: Path, text: str, *, replace: bool) -> None:
    """Writes the settings file.

    Raises:
        SettingsExistError: when there is one, and it is not to be replaced.
        DiskError, DiskFullError: when it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with disk_errors(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            draft.write_text(text, encoding="utf-8")
            if replace:
                draft.replace(path)
            else:
                os.link(draft, path)
        except FileExistsError:
            raise exists(path) from None
        finally:
            draft.unlink(missing_ok=True)


def exists(path: Path) -> SettingsExistError:
    """What to raise when there is a settings file already."""
    return SettingsExistError(f"{path} is there already", advice="change it, or replace it with --force")


def round_amount(amount: int) -> str:
    """An amount rounded down to what people would write."""
    for step, unit in _STEPS:
        if amount >= step:
            return f"{amount * 4 // step / 4:g}{unit}"
    return str(amount)


def _asked(
    question: Question, default: str, ask: Callable[[str, str], str], complain: Callable[[str], None]
) -> str:
    while True:
        answer = ask(question.text, default).strip() or default
        try:
            question.check(answer)
        except UsageError as error:
            complain(str(error))
        else:
            return answer


def _value(setting: str, answers: Answers) -> str:
    answer = answers[setting]
    if setting == "threads":
        return str(int(answer))
    if setting == "hours":
        return json.dumps([str(stretch) for stretch in _hours(answer).stretches])
    if setting == "state_dir":
        answer = str(full_path(answer))
    return json.dumps(answer, ensure_ascii=False)


def _default_disk(answers: Answers) -> str:
    """Twice the memory, so that experts that were assigned before need no download; at most a share of what is free."""
    free = shutil.disk_usage(nearest_existing(full_path(answers["state_dir"]))).free
    return round_amount(max(min(2 * parse_bytes(answers["memory_bytes"]), int(free * DISK_SHARE)), 1))


def _hours(text: str) -> Hours:
    return Hours() if text.strip().lower() == ALWAYS else Hours.parse(text)


def _check_name(text: str) -> None:
    if len(text) > MAX_NAME or not text.isprintable():
        raise AnswerError(
            "a name has at most 64 characters that can be seen", advice="take a shorter or plainer one"
        )


def _check_threads(text: str) -> None:
    if not text.strip().isdecimal() or not 1 <= int(text) <= 1024:
        raise AnswerError(f"{text!r} is no number of threads", advice="write a number from 1 to 1024")


def _check_folder(text: str) -> None:
    folder = full_path(text)
    there = nearest_existing(folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise AnswerError(f"{folder} cannot be made or written", advice="name a folder that you may write to")
