"""A process that downloads bare experts by range and is to be killed: `python -m ... ADDRESS FOLDER`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.published_experts import downloader, hub_at, outcomes, published


def large_experts() -> BareExperts:
    """Two experts of 1.5 MiB: several records of a journal each."""
    return published(BareExperts.make(layers=(1,), experts=2, hidden=256, intermediate=512))


async def download(address: str, folder: Path) -> None:
    """Gets all of them."""
    experts = large_experts()
    async with hub_at(address, stall_s=120.0) as hub:
        await outcomes(downloader(experts, folder, hub), experts.keys)


if __name__ == "__main__":
    asyncio.run(download(sys.argv[1], Path(sys.argv[2])))
