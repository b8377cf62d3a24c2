"""A download that was killed goes on where it stopped: nothing is fetched twice but the block that was torn."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic, sleep

from folkmoot.node.partial import BLOCK_BYTES, JOURNAL
from folkmoot.tests.support.downloading_process import large_experts
from folkmoot.tests.support.published_experts import check, downloader, file_of, hub_at, hub_files, outcomes
from folkmoot.tests.support.range_server import RangeServer, Script, range_server

PATIENCE_S = 60.0
KILLED_AT = (BLOCK_BYTES * 5 // 2, BLOCK_BYTES * 8)
"""After how many bytes in all the process is killed: within the first expert, and within the second."""


def on_disk(folder: Path) -> int:
    """Bytes of experts, whole or not."""
    return sum(path.stat().st_size for path in folder.glob("??/*") if not path.name.endswith(JOURNAL))


def killed_midway(server: RangeServer, store: Path, at: int) -> None:
    """Runs the process that downloads, and kills it once so many bytes are on disk; more do not come."""
    held, let_go = server.bytes_sent - on_disk(store), threading.Event()

    def hold(sent: int) -> None:
        if sent - held >= at + BLOCK_BYTES:
            let_go.wait(PATIENCE_S)

    server.script = Script(before_piece=hold)
    module = "folkmoot.tests.support.downloading_process"
    process = subprocess.Popen([sys.executable, "-m", module, server.address, str(store)], cwd="/")
    try:
        deadline = monotonic() + PATIENCE_S
        while on_disk(store) < at:
            assert monotonic() < deadline
            assert process.poll() is None
            sleep(0.005)
    finally:
        process.kill()
        process.wait()
        let_go.set()
        server.script = Script()


async def test_kill_9_costs_at_most_the_torn_block(tmp_path: Path) -> None:
    experts, store = large_experts(), tmp_path / "store"
    store.mkdir()
    with range_server(hub_files(experts)) as server:
        for turn, at in enumerate(KILLED_AT):
            await asyncio.to_thread(killed_midway, server, store, at)
            assert len(server.asked) == turn + 1
        there = on_disk(store)
        assert KILLED_AT[-1] <= there < len(file_of(experts))
        async with hub_at(server.address) as hub:
            source = downloader(experts, store, hub)
            check(experts, await outcomes(source, experts.keys))
    resumed = sum(part.length for part in server.asked[len(KILLED_AT) :])
    left = len(file_of(experts)) - there
    assert left <= resumed <= left + BLOCK_BYTES
    assert resumed == source.traffic.fetched_bytes
    assert KILLED_AT[0] - BLOCK_BYTES <= server.asked[1].first
    assert not list(store.glob(f"??/*{JOURNAL}"))


async def test_a_journal_without_its_bytes_counts_for_nothing(tmp_path: Path) -> None:
    experts, store = large_experts(), tmp_path / "store"
    key = experts.keys[0]
    first = downloader(experts, store)
    partial = first.store.partial(experts.manifest.experts[key].sha256, experts.expert_bytes)
    partial.write(0, experts.blobs[key][: 2 * BLOCK_BYTES])
    partial.close()
    (data,) = store.glob("??/*.partial")
    data.unlink()
    with range_server(hub_files(experts)) as server:
        async with hub_at(server.address) as hub:
            check(experts, await outcomes(downloader(experts, store, hub), [key]))
        assert server.bytes_asked == experts.expert_bytes


async def test_wrong_bytes_of_an_earlier_run_are_nobodys_lie(tmp_path: Path) -> None:
    experts, store = large_experts(), tmp_path / "store"
    key = experts.keys[0]
    first = downloader(experts, store)
    partial = first.store.partial(experts.manifest.experts[key].sha256, experts.expert_bytes)
    partial.write(0, bytes(2 * BLOCK_BYTES))
    partial.close()
    with range_server(hub_files(experts)) as server:
        async with hub_at(server.address) as hub:
            check(experts, await outcomes(downloader(experts, store, hub), [key]))
        assert [part.first for part in server.asked] == [2 * BLOCK_BYTES, 0]
