"""`folkmoot log verify` over real HTTP: an honest log is followed from visit to visit, one that was rewritten, forged, cut or
that hides something is caught, and what is kept is only what was sound."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.responses import RedirectResponse, Response

from folkmoot.cli.main import run
from folkmoot.coordinator.api import errors
from folkmoot.coordinator.api.log import LogRoutes
from folkmoot.coordinator.ledger.log_store import LogStore
from folkmoot.tests.support.live_server import live_server
from folkmoot.trust.keys import Identity
from folkmoot.trust.log_entries import EnrolmentEntry, LogEntry
from folkmoot.trust.log_tiles import encode_bundle

OPERATOR, OTHER = Identity(b"l" * 32), Identity(b"o" * 32)


def entries(start: int, end: int, signer: Identity = OPERATOR) -> list[bytes]:
    return [
        LogEntry.signed(EnrolmentEntry(OPERATOR.public, bytes(32), bytes(32), number), signer).encode()
        for number in range(start, end)
    ]


class Site:
    """A site that serves one log, or lies.

    Attributes:
        read: What it serves now.
        url: Where.
        kept: Where visitors keep their visits.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = folder / "kept"
        self.url = ""
        self.log = self.made("log", OPERATOR, entries(0, 3))
        self.read: Callable[[str], bytes | None] = self.log.read

    def made(self, name: str, operator: Identity, *batches: list[bytes]) -> LogStore:
        """Another log."""
        store = LogStore(self.folder / name, operator)
        for batch in batches:
            for start in range(0, len(batch), 256):
                store.append(batch[start : start + 256])
        return store

    def served(self, path: str) -> bytes | None:
        """What is there right now."""
        return self.read(path)

    def instead(self, changes: dict[str, bytes | None]) -> None:
        """From now on the site serves this in place of what the log has."""
        self.read = lambda path: changes[path] if path in changes else self.log.read(path)

    def visit(self, *options: str) -> int:
        return run(["log", "verify", self.url, "--state", str(self.kept), *options])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site, app = Site(tmp_path), FastAPI()
    errors.install(app)
    app.include_router(LogRoutes(site.served).router())
    with live_server(app) as site.url:
        yield site


def test_an_honest_log_is_followed(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.visit() == 0
    first = capsys.readouterr().out
    assert "this is the first" in first
    assert "trusted from now on" in first
    assert "3 of 3 read" in first
    site.log.append(entries(3, 250))
    site.log.append(entries(250, 300))
    assert site.visit() == 0
    second = capsys.readouterr().out
    assert "begins with the 3 entries" in second
    assert "297 of 300 read" in second
    assert second.endswith("sound\n")
    for options, read in (([], 0), (["--complete"], 300), (["--complete", "--sample", "7"], 7)):
        assert site.visit(*options) == 0
        assert f"{read} of 300 read" in capsys.readouterr().out


def test_json_is_one_object(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    forged = site.made("forged", OPERATOR, entries(1, 4))
    for finding, code in (("sound", 0), ("broken", 1)):
        assert site.visit("--json") == code
        document = json.loads(capsys.readouterr().out)
        assert (document["finding"], document["size"]) == (finding, 3)
        assert [step["held"] for step in document["steps"]][-1] == (code == 0)
        site.read = forged.read


@pytest.mark.parametrize(
    "forged",
    [entries(1, 400), entries(0, 2), entries(1, 4), [*entries(0, 2), *entries(7, 300)]],
    ids=["longer", "shorter", "as long", "late"],
)
def test_a_log_that_was_rewritten_between_two_visits_is_caught(
    forged: list[bytes], site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site.visit() == 0
    site.read = site.made("forged", OPERATOR, forged).read
    for _ in range(2):  # The lie does not become what the next visit compares with.
        assert site.visit() == 1
        said = capsys.readouterr()
        assert "NO  consistency" in said.out
        assert said.out.endswith("broken\n")
    kept = {path.suffix: path.read_bytes() for path in site.kept.iterdir()}
    assert kept == {".checkpoint": site.log.read("checkpoint"), ".broken": site.read("checkpoint")}
    site.read = site.log.read
    assert site.visit() == 0


def test_the_key_of_the_first_visit_is_expected_ever_after(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site.visit() == 0
    site.read = site.made("other", OTHER, entries(0, 3)).read
    assert site.visit() == 1
    assert "NO  signature" in capsys.readouterr().out
    assert site.visit("--key", OTHER.public.hex()) == 1


@pytest.mark.parametrize(("operator", "code"), [(OPERATOR, 0), (OTHER, 1)])
def test_a_key_that_is_given_is_the_one(operator: Identity, code: int, site: Site) -> None:
    assert site.visit("--key", operator.public.hex()) == code


LEAVES, BUNDLE = "tile/0/000.p/3", "tile/entries/000.p/3"


@pytest.mark.parametrize(
    "changes",
    [
        {BUNDLE: encode_bundle([*entries(0, 2), *entries(9, 10)])},
        {BUNDLE: None},
        {BUNDLE: b"short"},
        {LEAVES: bytes(96)},
        {LEAVES: None},
    ],
    ids=["forged entry", "no entries", "damaged entries", "forged tile", "no tile"],
)
def test_what_is_forged_or_hidden_below_an_honest_checkpoint_is_caught(
    changes: dict[str, bytes | None], site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.instead(changes)
    assert site.visit() == 1
    assert "NO  entries" in capsys.readouterr().out
    assert not list(site.kept.glob("*.checkpoint"))


def test_a_checkpoint_that_was_changed_is_not_signed(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    note = site.log.read("checkpoint") or b""
    site.instead({"checkpoint": note.replace(b"\n3\n", b"\n4\n")})
    assert site.visit() == 1
    assert "NO  signature" in capsys.readouterr().out


def test_an_entry_that_its_signer_did_not_sign_is_caught(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.read = site.made("unsigned", OPERATOR, entries(0, 2), entries(2, 3, OTHER)).read
    assert site.visit() == 1
    assert "NO  entries" in capsys.readouterr().out


@pytest.mark.parametrize("served", [None, b"", b"hello", b"log.example/other\n1\n\n\n"])
def test_what_is_no_log_is_malformed(served: bytes | None, site: Site) -> None:
    site.instead({"checkpoint": served})
    assert site.visit() == 2


def test_a_visit_that_was_kept_and_is_damaged_is_malformed(site: Site) -> None:
    assert site.visit() == 0
    (kept,) = site.kept.iterdir()
    kept.write_bytes(kept.read_bytes().replace(b"\n3\n", b"\n2\n"))
    assert site.visit() == 2


def test_a_site_that_answers_without_end_or_elsewhere_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = FastAPI()

    @app.get("/log/checkpoint")
    def long() -> Response:
        return Response(bytes(1 << 20))

    @app.get("/elsewhere/log/checkpoint")
    def elsewhere() -> Response:
        return RedirectResponse("/log/checkpoint")

    with live_server(app) as url:
        for place, words in ((url, "more than 65536 bytes"), (f"{url}/elsewhere", "answered 307")):
            assert run(["log", "verify", place, "--state", str(tmp_path)]) == 5
            assert words in capsys.readouterr().err
    assert run(["log", "verify", url, "--state", str(tmp_path)]) == 7


@pytest.mark.parametrize("key", ["12", "zz" * 32, "00" * 32])
def test_a_key_that_is_none_is_a_usage_error(key: str, site: Site) -> None:
    assert site.visit("--key", key) == 2
