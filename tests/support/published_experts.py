"""Bare experts as a model hub publishes them, and what a node's downloads are made of.

Guarantees: the published file holds exactly the experts' canonical bytes, where the manifest says.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from folkmoot.ids import ExpertKey
from folkmoot.kernels.expert import Expert
from folkmoot.models.manifest import ByteRange, Manifest
from folkmoot.models.publication import Publication
from folkmoot.node.batch import Manners, Outcome
from folkmoot.node.download import Downloader
from folkmoot.node.sources.hub import ModelHub
from folkmoot.node.sources.standing import SourceOrder, Standings
from folkmoot.node.sources.weight_source import Piece, SourceLostError, Want, WeightSource
from folkmoot.node.store import ExpertStore
from folkmoot.tests.support.bare_experts import BareExperts

PUBLICATION = Publication("tiny/experts", "c0ffee" + 34 * "0")


def published(experts: BareExperts, *, reversed_tensors: bool = False) -> BareExperts:
    """The same experts, whose manifest says where they are published.

    Args:
        reversed_tensors: Whether each expert's tensors lie in the file in the other order than in its canonical bytes.
    """
    manifest = experts.manifest
    entries = dict(manifest.experts)
    if reversed_tensors:
        for key, entry in manifest.experts.items():
            start, places = entry.ranges[0].offset, []
            for place in reversed(entry.ranges):
                places.append(ByteRange(0, start, place.length))
                start += place.length
            entries[key] = replace(entry, ranges=tuple(reversed(places)))
    return replace(experts, manifest=replace(manifest, experts=entries, published=PUBLICATION))


def file_of(experts: BareExperts) -> bytes:
    """The file that the manifest's ranges point into."""
    data = bytearray(experts.manifest.files[0].size)
    for key, entry in experts.manifest.experts.items():
        done = 0
        for place in entry.ranges:
            data[place.offset : place.offset + place.length] = experts.blobs[key][done : done + place.length]
            done += place.length
    return bytes(data)


def hub_files(experts: BareExperts) -> dict[str, bytes]:
    """What a hub serves."""
    return {PUBLICATION.path(experts.manifest.files[0].name): file_of(experts)}


@dataclass
class OwnCoordinator:
    """The last resort, in memory: brings everything, or nothing."""

    experts: BareExperts
    answers: bool = True
    asked: list[ExpertKey] = field(default_factory=list)
    name = "the coordinator"
    remote = True
    joins = False
    last_resort = True

    def offers(self, manifest: Manifest, key: ExpertKey) -> bool:
        return True

    async def fetch(self, manifest: Manifest, wants: Sequence[Want]) -> AsyncGenerator[Piece, None]:
        for want in wants:
            self.asked.append(want.key)
            if not self.answers:
                raise SourceLostError("the coordinator does not serve experts")
            for span in want.missing:
                yield Piece(want.key, span.start, self.experts.blobs[want.key][span.start : span.end])


@asynccontextmanager
async def hub_at(address: str, **changes: Any) -> AsyncIterator[ModelHub]:
    """A hub as a source, with short waits."""
    hub = ModelHub(address, **({"stall_s": 10.0, "connect_s": 10.0} | changes))
    try:
        yield hub
    finally:
        await hub.close()


def downloader(
    experts: BareExperts,
    folder: Path,
    *sources: WeightSource,
    standings: Standings | None = None,
    manners: Manners | None = None,
) -> Downloader:
    """What gets experts into a folder, from these sources in this order."""
    folder.mkdir(exist_ok=True)
    store = ExpertStore(folder, 1 << 30)
    store.reserve(
        "the test", {entry.sha256: experts.expert_bytes for entry in experts.manifest.experts.values()}
    )
    order = SourceOrder(experts.manifest, sources, standings or Standings())
    return Downloader(experts.manifest, store, order, manners or Manners(pause_s=0.01))


async def outcomes(source: Downloader, keys: Sequence[ExpertKey]) -> dict[ExpertKey, Outcome]:
    """What came of each expert."""
    found: dict[ExpertKey, Outcome] = {}
    async with aclosing(source.obtain(keys)) as pairs:
        async for key, outcome in pairs:
            assert key not in found
            found[key] = outcome
    assert found.keys() == set(keys)
    return found


def check(experts: BareExperts, found: Mapping[ExpertKey, Outcome]) -> None:
    """Every expert is there with the right bytes."""
    for key, outcome in found.items():
        assert isinstance(outcome, Expert), f"{key}: {outcome}"
        held = b"".join(
            outcome.weights[tensor.role].contiguous().view(-1).numpy().tobytes()
            for tensor in outcome.spec.tensors()
        )
        assert held == experts.blobs[key]
