"""Proven: of files that are almost right, with lengths changed, ends cut, parts repeated or moved, or halves of two put together,
every parser takes only what it would write itself, and raises nothing but its own error."""

from __future__ import annotations

import os
import random
import time
import warnings
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from folkmoot.tests.support.mutations import mutated
from folkmoot.tests.support.parsers import Parser, parsers

NAMES: Final = sorted(parsers())
SECONDS: Final = float(os.environ.get("FUZZ_SECONDS", "600"))
"""How long `make fuzz` goes on, over all parsers."""
MOST_KEPT: Final = 2000
SIZE: Final = 4096
"""Files grow no longer than this, or than twice the longest that is right: what is found in them is found in short ones."""

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a")
"""Certificates with numbers that no certificate should have are what this makes."""


def refusal(parser: Parser, data: bytes) -> str:
    """Parses; what was refused, in words without the numbers; empty where nothing was."""
    try:
        again = parser.parse(data)
    except parser.refusals as error:
        return type(error).__name__ + "".join(letter for letter in str(error) if not letter.isdigit())[:60]
    assert again is None or again == data, "what is taken has one form"
    return ""


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_right_are_taken(name: str) -> None:
    parser = parsers()[name]
    assert any(not refusal(parser, data) for data in parser.files)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_files_that_are_almost_right_raise_nothing_else(name: str, data: st.DataObject) -> None:
    parser = parsers()[name]
    refusal(parser, mutated(parser.files, lambda below: data.draw(st.integers(0, below - 1))))


@pytest.mark.parametrize("name", NAMES)
def test_many_files_that_are_almost_right_raise_nothing_else(name: str) -> None:
    parser, generator = parsers()[name], random.Random(name)
    for _ in range(300):
        refusal(parser, mutated(parser.files, generator.randrange))


@pytest.mark.fuzz
@pytest.mark.timeout(0)
def test_parsers_for_as_long_as_one_likes() -> None:
    """Files that were refused in a way that was not seen before are changed further: so this finds its way behind each check."""
    warnings.simplefilter("ignore")
    seed = random.SystemRandom().getrandbits(64)
    generator, tried = random.Random(seed), 0
    kept = {name: list(parsers()[name].files) for name in NAMES}
    seen: dict[str, set[str]] = {name: set() for name in NAMES}
    longest = {name: max(SIZE, 2 * max(map(len, kept[name]))) for name in NAMES}
    end_s = time.monotonic() + SECONDS
    while time.monotonic() < end_s:
        for name in NAMES:
            parser = parsers()[name]
            for _ in range(20):
                data = mutated(kept[name], generator.randrange)[: longest[name]]
                try:
                    found = refusal(parser, data)
                except Exception:
                    path = Path(f"fuzz-{name.replace(' ', '-')}.bin").absolute()
                    path.write_bytes(data)
                    print(f"{name}, seed {seed}: {path} holds {len(data)} bytes")
                    raise
                tried += 1
                if found not in seen[name] and len(kept[name]) < MOST_KEPT:
                    seen[name].add(found)
                    kept[name].append(data)
    print(f"{tried} files, refused in {sum(map(len, seen.values()))} ways; seed {seed}")
