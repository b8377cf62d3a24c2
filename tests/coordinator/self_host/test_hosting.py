"""What the coordinator hosts itself is made ready whatever becomes of its files: what cannot be read is refused, and a fault ends nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from folkmoot.coordinator.dispatch.directory import Directory
from folkmoot.coordinator.self_host.hosting import SelfHosting
from folkmoot.ids import NodeId
from folkmoot.models.prepare import prepare
from folkmoot.models.prepared import PreparedModel
from folkmoot.tests.support.prepared_models import TinyModels


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedModel:
    """A model whose files may be damaged."""
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(TinyModels(tmp_path / "models").get("mixtral").checkpoint, checkpoint)
    return prepare(str(checkpoint), tmp_path / "prepared", slices=None)


class Changes:
    """Whoever is told of changes.

    Attributes:
        seen: Whether more was refused, of each.
        faults: How many more times being told is to fail.
    """

    def __init__(self, faults: int = 0) -> None:
        self.seen: asyncio.Queue[bool] = asyncio.Queue()
        self.faults = faults

    def __call__(self, refused_more: bool) -> None:
        self.seen.put_nowait(refused_more)
        if self.faults:
            self.faults -= 1
            raise RuntimeError("whoever is told has a fault")


@asynccontextmanager
async def hosting(
    prepared: PreparedModel, changes: Changes
) -> AsyncIterator[tuple[SelfHosting, Directory, asyncio.Task[None]]]:
    """What runs, and the task that it runs in."""
    own, directory = SelfHosting(NodeId("0" * 64), prepared, 1 << 40), Directory(prepared.manifest)
    task = asyncio.create_task(own.run(directory, changes))
    try:
        yield own, directory, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_experts_of_an_emptied_file_are_refused(prepared: PreparedModel) -> None:
    changes, keys = Changes(), sorted(prepared.manifest.experts)
    for path, _, _ in prepared.ranges(keys[0]):
        os.truncate(path, 0)
    async with asyncio.timeout(60), hosting(prepared, changes) as (own, _, task):
        own.assign(keys, Directory(prepared.manifest))
        assert await changes.seen.get()
        assert keys[0] in own.refused and not own.refused & own.ready
        assert not task.done()


async def test_a_fault_ends_no_hosting(prepared: PreparedModel, caplog: pytest.LogCaptureFixture) -> None:
    changes, keys = Changes(faults=1), sorted(prepared.manifest.experts)
    async with asyncio.timeout(60), hosting(prepared, changes) as (own, directory, _):
        own.assign(keys[:1], directory)
        await changes.seen.get()
        own.assign(keys[:2], directory)
        await changes.seen.get()
        assert own.ready == set(keys[:2])
    assert "cannot make its own experts ready" in caplog.text
