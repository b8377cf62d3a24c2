"""Expert blobs over real gRPC: the right bytes from any offset, in bounded chunks, for ticket holders only."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from folkmoot.errors import ModelError
from folkmoot.ids import ExpertKey
from folkmoot.models.manifest import Manifest
from folkmoot.protos.folkmoot.v1 import experts_pb2
from folkmoot.protos.folkmoot.v1.experts_pb2_grpc import ExpertsStub
from folkmoot.protos.limits import CHUNK_BYTES
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_hub import RunningHub, running_hub
from folkmoot.tests.support.scripted_node import ScriptedNode
from folkmoot.trust.keys import Identity
from folkmoot.trust.tickets import issue_ticket

if TYPE_CHECKING:
    from folkmoot.protos.folkmoot.v1.experts_pb2_grpc import ExpertsAsyncStub

KEY = ExpertKey(1, 2)


def large() -> MemoryExperts:
    """Experts of 2.25 chunks."""
    return MemoryExperts(layers=(0, 1), experts=3, hidden=512, intermediate=384)


async def stub_of(network: RunningHub) -> tuple[ExpertsAsyncStub, ScriptedNode]:
    node = ScriptedNode(network.hub.invite, network.model)
    network.nodes.append(node)
    await node.enrol()
    return ExpertsStub(await node.channel()), node


def fetch(network: RunningHub, ticket: bytes, **changes: Any) -> experts_pb2.FetchRequest:
    fields: dict[str, Any] = {
        "ticket": ticket,
        "manifest_digest": network.model.manifest.digest,
        "layer": KEY.layer,
        "expert": KEY.expert,
    }
    return experts_pb2.FetchRequest(**(fields | changes))


async def refused(stream: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stream:
            pass
    code: grpc.StatusCode = caught.value.code()
    return code


async def test_the_manifest_comes_whole() -> None:
    async with running_hub() as network:
        stub, node = await stub_of(network)
        request = experts_pb2.ManifestRequest(
            ticket=node.ticket, manifest_digest=network.model.manifest.digest
        )
        data = b"".join([chunk.data async for chunk in stub.Manifest(request)])
        assert Manifest.decode(data).digest == network.model.manifest.digest


@pytest.mark.parametrize(
    "offset", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 5, 3 * 512 * 384 * 4 - 1, 3 * 512 * 384 * 4]
)
async def test_an_expert_comes_from_any_offset(offset: int) -> None:
    async with running_hub(large()) as network:
        stub, node = await stub_of(network)
        whole = network.model.read_expert(KEY)
        assert hashlib.sha256(whole).hexdigest() == network.model.manifest.experts[KEY].sha256
        position, data = offset, b""
        async for chunk in stub.Fetch(fetch(network, node.ticket, offset=offset)):
            assert chunk.offset == position
            assert 0 < len(chunk.data) <= CHUNK_BYTES
            position += len(chunk.data)
            data += chunk.data
        assert data == whole[offset:]


@pytest.mark.parametrize("length", [1, CHUNK_BYTES, CHUNK_BYTES + 1, 1 << 40])
async def test_a_stretch_of_an_expert_is_all_that_is_sent_of_it(length: int) -> None:
    async with running_hub(large()) as network:
        stub, node = await stub_of(network)
        stream = stub.Fetch(fetch(network, node.ticket, offset=7, length=length))
        data = b"".join([chunk.data async for chunk in stream])
        assert data == network.model.read_expert(KEY)[7 : 7 + length]


async def test_nodes_of_other_networks_name_an_expert_by_its_bytes() -> None:
    async with running_hub(large()) as network:
        stub, node = await stub_of(network)
        digest = network.model.manifest.experts[KEY].sha256
        named = {"manifest_digest": bytes(32), "layer": 99, "expert": 99}
        stream = stub.Fetch(fetch(network, node.ticket, sha256=bytes.fromhex(digest), **named))
        assert b"".join([chunk.data async for chunk in stream]) == network.model.read_expert(KEY)
        for unknown in (bytes(32), b"short"):
            refusal = await refused(stub.Fetch(fetch(network, node.ticket, sha256=unknown)))
            assert refusal is grpc.StatusCode.NOT_FOUND


async def test_who_has_no_good_ticket_gets_nothing() -> None:
    async with running_hub() as network:
        stub, node = await stub_of(network)
        key = node.identity.public
        for ticket in (
            b"",
            bytes(104),
            node.ticket[:-1] + bytes([node.ticket[-1] ^ 1]),
            issue_ticket(Identity.generate(), key, 1 << 40),
            issue_ticket(network.identity, key, 1000),
        ):
            assert await refused(stub.Fetch(fetch(network, ticket))) is grpc.StatusCode.UNAUTHENTICATED
            request = experts_pb2.ManifestRequest(
                ticket=ticket, manifest_digest=network.model.manifest.digest
            )
            assert await refused(stub.Manifest(request)) is grpc.StatusCode.UNAUTHENTICATED
        assert not network.model.reads


async def test_what_does_not_exist_is_refused() -> None:
    async with running_hub() as network:
        stub, node = await stub_of(network)
        for changes, code in (
            ({"layer": 9}, grpc.StatusCode.NOT_FOUND),
            ({"expert": 4}, grpc.StatusCode.NOT_FOUND),
            ({"offset": 1 << 60}, grpc.StatusCode.OUT_OF_RANGE),
            ({"manifest_digest": bytes(32)}, grpc.StatusCode.FAILED_PRECONDITION),
        ):
            assert await refused(stub.Fetch(fetch(network, node.ticket, **changes))) is code


async def test_streams_of_one_node_are_bounded_and_counted_down() -> None:
    class Slow(MemoryExperts):
        """Experts that are read only when the test says so."""

        go = threading.Event()

        def read_expert(self, key: ExpertKey, offset: int = 0, length: int | None = None) -> bytes:
            data = super().read_expert(key, offset, length)
            self.go.wait(10)
            return data

    model = Slow()
    async with running_hub(model, fetch_streams_per_node=2) as network:
        stub, node = await stub_of(network)
        other, another = await stub_of(network)

        async def whole(chosen: ExpertsAsyncStub, ticket: bytes) -> int:
            return sum([len(chunk.data) async for chunk in chosen.Fetch(fetch(network, ticket))])

        streams = [asyncio.create_task(whole(stub, node.ticket)) for _ in range(2)]
        await network.until(lambda: model.reads[KEY] == 2)
        limited = await refused(stub.Fetch(fetch(network, node.ticket, expert=3)))
        assert limited is grpc.StatusCode.RESOURCE_EXHAUSTED
        streams.append(asyncio.create_task(whole(other, another.ticket)))
        await network.until(lambda: model.reads[KEY] == 3)
        model.go.set()
        assert set(await asyncio.gather(*streams)) == {model.manifest.expert_bytes(KEY)}
        assert await whole(stub, node.ticket) == model.manifest.expert_bytes(KEY)


async def test_a_stream_that_the_node_gives_up_frees_its_place() -> None:
    async with running_hub(large(), fetch_streams_per_node=1) as network:
        stub, node = await stub_of(network)
        stream = stub.Fetch(fetch(network, node.ticket))
        await stream.read()
        stream.cancel()
        data = b""
        async with asyncio.timeout(60):
            while len(data) < network.model.manifest.expert_bytes(KEY):
                try:
                    async for chunk in stub.Fetch(fetch(network, node.ticket, offset=len(data))):
                        data += chunk.data
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert data == network.model.read_expert(KEY)


async def test_a_source_that_cannot_be_read_is_not_the_nodes_fault() -> None:
    class Broken(MemoryExperts):
        """Experts whose file is gone."""

        def read_expert(self, key: ExpertKey, offset: int = 0, length: int | None = None) -> bytes:
            raise ModelError("the file is gone")

    async with running_hub(Broken()) as network:
        stub, node = await stub_of(network)
        assert await refused(stub.Fetch(fetch(network, node.ticket))) is grpc.StatusCode.DATA_LOSS
