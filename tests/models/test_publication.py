"""Where a model is published stands in its manifest: pinned, without a host, and only where its files are the published ones."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from folkmoot.errors import UsageError
from folkmoot.models.manifest import Manifest, ManifestError
from folkmoot.models.prepare import prepare
from folkmoot.models.publication import Publication, PublicationError
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.tiny_models import tiny_checkpoint

REVISION = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("mixtral", tmp_path_factory.mktemp("published") / "checkpoint")


@pytest.mark.parametrize(
    "text",
    [
        f"owner/name@{REVISION}",
        f"https://hub.example/owner/name@{REVISION}",
        f" https://hub.example/owner/name/@{REVISION} ",
    ],
)
def test_what_people_write_is_read(text: str) -> None:
    publication = Publication.parse(text)
    assert (publication.repository, publication.revision) == ("owner/name", REVISION)
    assert publication.path("a b.safetensors") == f"owner/name/resolve/{REVISION}/a%20b.safetensors"
    assert Publication.parse(str(publication)) == publication


@pytest.mark.parametrize(
    "text",
    [
        "",
        "owner/name",
        "owner/name@main",
        f"owner/name@{REVISION[:-1]}",
        f"owner/name@{REVISION.upper()}",
        f"name@{REVISION}",
        f"../name@{REVISION}",
        f"owner/..@{REVISION}",
        f"owner/na..me@{REVISION}",
        f"owner/name/more@{REVISION}",
        f"owner/na?me@{REVISION}",
        f"//host.example/name@{REVISION}",
        f"file:///etc/owner@{REVISION}",
        f"owner/name\n@{REVISION}",
    ],
)
def test_what_pins_nothing_is_refused(text: str) -> None:
    with pytest.raises(PublicationError):
        Publication.parse(text)


def test_prepare_says_where_the_files_are_published(checkpoint: Path, tmp_path: Path) -> None:
    model = prepare(str(checkpoint), tmp_path / "out", published_at=f"owner/name@{REVISION}")
    assert model.manifest.published == Publication("owner/name", REVISION)
    assert Manifest.decode(model.manifest.encoded) == model.manifest
    again = prepare(str(checkpoint), tmp_path / "out", published_at=f"owner/name@{OTHER}")
    assert again.manifest.published == Publication("owner/name", OTHER)
    without = prepare(str(checkpoint), tmp_path / "out")
    assert without.manifest.published is None


def test_a_folder_of_the_hubs_cache_says_it_by_itself(checkpoint: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--some-owner--a--name" / "snapshots" / REVISION
    shutil.copytree(checkpoint, snapshot)
    model = prepare(str(snapshot), tmp_path / "out")
    assert model.manifest.published == Publication("some-owner/a--name", REVISION)
    branch = snapshot.with_name("main")
    snapshot.rename(branch)
    assert prepare(str(branch), tmp_path / "branch").manifest.published is None


def test_what_is_written_anew_is_published_nowhere(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="written anew"):
        prepare(
            str(checkpoint),
            tmp_path / "out",
            weight_format="int8_channel",
            published_at=f"owner/name@{REVISION}",
        )
    assert not (tmp_path / "out").exists()
    snapshot = tmp_path / "models--owner--name" / "snapshots" / REVISION
    shutil.copytree(checkpoint, snapshot)
    assert prepare(str(snapshot), tmp_path / "int8", weight_format="int8_channel").manifest.published is None


def test_a_manifest_without_it_keeps_its_digest() -> None:
    manifest = BareExperts.make().manifest
    assert b"published" not in manifest.encoded
    published = replace(manifest, published=Publication("owner/name", REVISION))
    assert published.digest != manifest.digest
    assert Manifest.decode(published.encoded).published == published.published


@pytest.mark.parametrize(
    "value",
    [
        '"owner/name"',
        '["owner/name"]',
        '["owner/name","main"]',
        "[1,2]",
        f'["//evil.example/x","{REVISION}"]',
    ],
)
def test_a_manifest_that_says_it_wrongly_is_refused(value: str) -> None:
    data = BareExperts.make().manifest.encoded.replace(b'"name":', f'"published":{value},"name":'.encode(), 1)
    with pytest.raises(ManifestError, match="cannot be read"):
        Manifest.decode(data)
