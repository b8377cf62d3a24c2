"""A folder that the contributor names is asked first: a published checkpoint, or a prepared model; and is checked like any."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from folkmoot.errors import UsageError
from folkmoot.models.source_table import SourceTable
from folkmoot.node.settings import NodeSettings
from folkmoot.node.sources.folder import LocalFolder, NoSuchFolderError
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.published_experts import (
    OwnCoordinator,
    check,
    downloader,
    file_of,
    outcomes,
    published,
)
from folkmoot.tests.support.running_node import running_node
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator


@pytest.fixture
def checkpoint(experts: BareExperts, tmp_path: Path) -> Path:
    """A folder with the published file."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "experts.bin").write_bytes(file_of(experts))
    return folder


async def looked_at(folder: Path, experts: BareExperts) -> LocalFolder:
    """The folder as a source that knows what it has."""
    source = LocalFolder(folder, stall_s=60)
    await source.look(experts.manifest)
    return source


def prepared_in(folder: Path, experts: BareExperts, expert_folder: Path) -> Path:
    """A prepared model whose experts lie in another folder."""
    folder.mkdir()
    table = SourceTable(experts.manifest.digest.hex(), {}, expert_folder, expert_folder, {}, {})
    (folder / "source.json").write_bytes(table.encode(folder))
    (folder / "manifest.json").write_bytes(experts.manifest.encoded)
    return folder


async def test_a_published_checkpoint_brings_everything_and_no_byte_is_fetched(
    experts: BareExperts, checkpoint: Path, tmp_path: Path
) -> None:
    own = OwnCoordinator(experts)
    source = downloader(experts, tmp_path / "store", await looked_at(checkpoint, experts), own)
    check(experts, await outcomes(source, experts.keys))
    assert (source.traffic.fetched_bytes, own.asked) == (0, [])
    assert source.traffic.brought_bytes == len(file_of(experts))


async def test_a_prepared_model_brings_experts_of_the_same_bytes_whatever_it_is_called(
    experts: BareExperts, checkpoint: Path, tmp_path: Path
) -> None:
    renamed = replace(experts, manifest=replace(experts.manifest, name="another name"))
    prepared = prepared_in(tmp_path / "prepared", renamed, checkpoint)
    own = OwnCoordinator(experts)
    source = downloader(experts, tmp_path / "store", await looked_at(prepared, experts), own)
    check(experts, await outcomes(source, experts.keys))
    assert not own.asked


@pytest.mark.parametrize(
    "damage", ["wrong bytes", "shorter", "gone", "another model", "no folder's business"]
)
async def test_what_a_folder_does_not_have_right_comes_from_the_next_source(
    damage: str, experts: BareExperts, checkpoint: Path, tmp_path: Path
) -> None:
    file = checkpoint / "experts.bin"
    folder = await looked_at(checkpoint, experts)
    assert folder.offers(experts.manifest, experts.keys[0])
    match damage:
        case "wrong bytes":
            file.write_bytes(bytes(len(file_of(experts))))
        case "shorter":
            file.write_bytes(file_of(experts)[: experts.expert_bytes + 10])
        case "gone":
            file.unlink()
        case "another model":
            folder = LocalFolder(
                prepared_in(tmp_path / "prepared", published(BareExperts.make(seed=1)), checkpoint),
                stall_s=60,
            )
        case _:
            (tmp_path / "other").mkdir()
            (tmp_path / "other" / "manifest.json").write_text("{}")
            (tmp_path / "other" / "source.json").write_text("{}")
            folder = await looked_at(tmp_path / "other", experts)
    own = OwnCoordinator(experts)
    check(experts, await outcomes(downloader(experts, tmp_path / "store", folder, own), experts.keys[:4]))
    assert own.asked == experts.keys[(1 if damage == "shorter" else 0) : 4]


async def test_the_coordinator_is_not_told_of_the_contributors_folders(
    experts: BareExperts, checkpoint: Path, tmp_path: Path
) -> None:
    folder = await looked_at(checkpoint, experts)
    assert folder.offers(experts.manifest, experts.keys[0])
    (checkpoint / "experts.bin").unlink()
    own = OwnCoordinator(experts, answers=False)
    found = await outcomes(downloader(experts, tmp_path / "store", folder, own), experts.keys[:1])
    assert [str(outcome) for outcome in found.values()] == ["the coordinator does not serve experts"]


async def test_a_node_takes_experts_from_the_folders_that_it_was_told_of(
    experts: BareExperts, checkpoint: Path, tmp_path: Path
) -> None:
    coordinator = ScriptedCoordinator(experts, tmp_path / "coordinator")
    await coordinator.start()
    empty = tmp_path / "empty"
    empty.mkdir()
    async with running_node(coordinator.invite, tmp_path / "node", hub_url="", weights=(empty, checkpoint)):
        link = await coordinator.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        assert link.holdings[-1].bytes_fetched == 0
    assert not coordinator.fetches
    await coordinator.stop()


async def test_a_folder_that_hangs_is_given_up(
    experts: BareExperts, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, let_go = await looked_at(checkpoint, experts), threading.Event()
    hung._stall_s = 0.1
    monkeypatch.setattr("folkmoot.node.sources.folder._read", lambda *_: let_go.wait(60))
    own = OwnCoordinator(experts)
    check(experts, await outcomes(downloader(experts, tmp_path / "store", hung, own), experts.keys))
    monkeypatch.setattr("folkmoot.node.sources.folder._size", lambda *_: let_go.wait(60))
    never_seen = LocalFolder(checkpoint, stall_s=0.1)
    await never_seen.look(experts.manifest)
    assert not never_seen.offers(experts.manifest, experts.keys[0])
    let_go.set()
    assert own.asked == experts.keys


async def test_a_folder_that_is_not_there_keeps_the_node_from_starting(
    experts: BareExperts, tmp_path: Path
) -> None:
    with pytest.raises(NoSuchFolderError, match="check the path given with --weights"):
        LocalFolder(tmp_path / "nowhere", stall_s=60)
    coordinator = ScriptedCoordinator(experts, tmp_path / "coordinator")
    await coordinator.start()
    with pytest.raises(UsageError, match="there is no folder of weights"):
        async with running_node(coordinator.invite, tmp_path / "node", weights=(tmp_path / "nowhere",)):
            pass
    async with running_node(coordinator.invite, tmp_path / "node"):
        pass  # the state folder was given up
    await coordinator.stop()


def test_folders_come_from_the_environment_as_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLKMOOT_NODE_WEIGHTS", '["/one", "/two"]')
    assert NodeSettings.load(invite="x").weights == (Path("/one"), Path("/two"))
