"""Whatever a server does in whatever order, and wherever a download is abandoned: right bytes in the end, none under a wrong name."""

from __future__ import annotations

import hashlib
from contextlib import aclosing
from pathlib import Path
from random import Random

import pytest

from folkmoot.errors import FolkmootError
from folkmoot.node.sources.standing import Standings
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.published_experts import (
    OwnCoordinator,
    check,
    downloader,
    hub_at,
    hub_files,
    outcomes,
    published,
)
from folkmoot.tests.support.range_server import Fault, Script, range_server

HARMLESS_IN_A_HURRY = [
    fault for fault in Fault if fault not in (Fault.SILENT, Fault.SILENT_MIDWAY, Fault.SLOW)
]
"""All but those that take time."""


def check_store(folder: Path) -> None:
    """What lies under an expert's name has its SHA-256."""
    for path in folder.glob("??/*"):
        if "." not in path.name:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


@pytest.mark.parametrize("seed", range(12))
async def test_right_bytes_in_the_end(seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    experts = published(BareExperts.make(), reversed_tensors=bool(seed % 2))
    store = tmp_path / "store"

    def draw() -> Fault | None:
        script.drop_after = random.randrange(1, 20_000)
        return random.choice([None, Fault.DROPS, Fault.DROPS, *HARMLESS_IN_A_HURRY])

    script = Script(draw=draw, leads_to="http://127.0.0.1:1", retry_after="0")
    with range_server(hub_files(experts), script) as server:
        async with hub_at(server.address) as hub:
            for _ in range(6):  # as if the node were started again: nothing is held against the hub
                own = OwnCoordinator(experts, answers=False)
                source = downloader(experts, store, hub, own, standings=Standings())
                async with aclosing(source.obtain(random.sample(experts.keys, 5))) as found:
                    left = random.randrange(1, 6)
                    async for key, outcome in found:
                        if not isinstance(outcome, FolkmootError):
                            check(experts, {key: outcome})
                        left -= 1
                        if not left:
                            break
                check_store(store)
                assert source.traffic.unready_bytes == 0
                assert source.traffic.longest_wait() is None
            own = OwnCoordinator(experts)
            source = downloader(experts, store, hub, own)
            check(experts, await outcomes(source, experts.keys))
    check_store(store)
    assert {path.name for path in store.glob("??/*")} == {
        entry.sha256 for entry in experts.manifest.experts.values()
    }
