"""What daemons log, for people and for programs, and which coordinator a line is about."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator

import pytest

from folkmoot.logs import LogFormat, configure_logging, working_for

log = logging.getLogger("folkmoot.node.link")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.handlers = handlers
    root.setLevel(level)


def test_people_read_when_where_and_what(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    log.info("ready: %d experts", 3)
    log.warning("lost")
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d node\.link: ready: 3 experts", first)
    assert second.endswith(" warning node.link: lost")


def test_programs_read_one_object_a_line_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogFormat.JSON)
    try:
        raise ValueError("torn\nin two")
    except ValueError:
        log.exception("over\ntwo lines, \u201cquoted\u201d")
    document = json.loads(capsys.readouterr().err)
    assert document["level"] == "error"
    assert document["logger"] == "folkmoot.node.link"
    assert document["message"] == "over\ntwo lines, \u201cquoted\u201d"
    assert document["trace"].endswith("ValueError: torn\nin two")


@pytest.mark.parametrize("form", LogFormat)
def test_a_line_says_which_coordinator_it_is_about(
    form: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(form)

    async def work(name: str) -> None:
        working_for.set(name)
        await asyncio.sleep(0)
        await asyncio.to_thread(log.info, "from %s", name)

    async def both() -> None:
        await asyncio.gather(work("london"), work("paris"))
        log.info("from nowhere")

    asyncio.run(both())
    lines = sorted(capsys.readouterr().err.splitlines(), key=lambda line: line[line.index("from") :])
    if form is LogFormat.JSON:
        assert [json.loads(line).get("coordinator") for line in lines] == ["london", None, "paris"]
    else:
        assert [" [london]: " in lines[0], "[" in lines[1], " [paris]: " in lines[2]] == [True, False, True]


def test_setting_up_again_says_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogFormat.JSON)
    configure_logging(LogFormat.TEXT)
    log.info("once")
    assert capsys.readouterr().err.count("once") == 1
