"""Proven over a real server: messages up to the cap pass, larger ones are refused at either end, and a port is one server's.
Proven of the numbers: a server tolerates its clients' pings, and the caps on frames fit into a message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from folkmoot.protos import limits
from folkmoot.protos.folkmoot.v1 import experts_pb2, experts_pb2_grpc

HOST = "127.0.0.1"
TIMEOUT_S = 30.0
OVERHEAD = 64


class Echo(experts_pb2_grpc.ExpertsServicer):
    """Answers a fetch with one chunk of as many bytes as `offset` says."""

    async def Fetch(
        self,
        request: experts_pb2.FetchRequest,
        context: grpc.aio.ServicerContext[experts_pb2.FetchRequest, experts_pb2.Chunk],
    ) -> AsyncIterator[experts_pb2.Chunk]:
        yield experts_pb2.Chunk(data=bytes(request.offset))

    async def Manifest(
        self,
        request: experts_pb2.ManifestRequest,
        context: grpc.aio.ServicerContext[experts_pb2.ManifestRequest, experts_pb2.Chunk],
    ) -> AsyncIterator[experts_pb2.Chunk]:
        yield experts_pb2.Chunk()


@asynccontextmanager
async def connected() -> AsyncIterator[experts_pb2_grpc.ExpertsAsyncStub]:
    """A stub whose channel and server have the options of this room."""
    server = grpc.aio.server(options=limits.server_options())
    experts_pb2_grpc.add_ExpertsServicer_to_server(Echo(), server)
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"{HOST}:{port}", options=limits.channel_options()) as channel:
            yield experts_pb2_grpc.ExpertsStub(channel)
    finally:
        await server.stop(None)


async def fetched(stub: experts_pb2_grpc.ExpertsAsyncStub, request: experts_pb2.FetchRequest) -> int:
    """How many bytes came back."""
    return sum([len(chunk.data) async for chunk in stub.Fetch(request, timeout=TIMEOUT_S)])


async def test_a_message_just_below_the_cap_passes_both_ways() -> None:
    size = limits.MAX_MESSAGE_BYTES - OVERHEAD
    async with connected() as stub:
        assert await fetched(stub, experts_pb2.FetchRequest(offset=size)) == size
        assert await fetched(stub, experts_pb2.FetchRequest(offset=1, ticket=bytes(size))) == 1


@pytest.mark.parametrize(
    "request_",
    [
        experts_pb2.FetchRequest(offset=limits.MAX_MESSAGE_BYTES),
        experts_pb2.FetchRequest(ticket=bytes(limits.MAX_MESSAGE_BYTES)),
    ],
    ids=["answer", "question"],
)
async def test_a_message_over_the_cap_is_refused_and_the_next_one_works(
    request_: experts_pb2.FetchRequest,
) -> None:
    async with connected() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fetched(stub, request_)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await fetched(stub, experts_pb2.FetchRequest(offset=7)) == 7


@pytest.mark.parametrize("options", [limits.channel_options("name"), limits.server_options()])
def test_both_ends_have_both_caps_and_keepalive(options: limits.ChannelOptions) -> None:
    names = [name for name, _ in options]
    assert len(set(names)) == len(names)
    chosen = dict(options)
    assert chosen["grpc.max_send_message_length"] == limits.MAX_MESSAGE_BYTES
    assert chosen["grpc.max_receive_message_length"] == limits.MAX_MESSAGE_BYTES
    assert chosen["grpc.keepalive_time_ms"] == limits.KEEPALIVE_TIME_MS
    assert chosen["grpc.keepalive_permit_without_calls"] == 1


def test_a_server_tolerates_the_pings_of_our_clients() -> None:
    """gRPC's own default is one ping in five minutes; who sends more is shown the door."""
    tolerated = dict(limits.server_options())["grpc.http2.min_ping_interval_without_data_ms"]
    assert int(tolerated) < limits.KEEPALIVE_TIME_MS


def test_options_are_the_callers_to_change() -> None:
    limits.channel_options().append(("grpc.keepalive_time_ms", 1))
    limits.server_options().clear()
    assert ("grpc.keepalive_time_ms", 1) not in limits.channel_options()
    assert limits.server_options()


async def test_a_port_in_use_is_not_shared() -> None:
    first = grpc.aio.server(options=limits.server_options())
    port = first.add_insecure_port(f"{HOST}:0")
    await first.start()
    try:
        second = grpc.aio.server(options=limits.server_options())
        with pytest.raises(RuntimeError, match=str(port)):
            second.add_insecure_port(f"{HOST}:{port}")
        await second.stop(None)
    finally:
        await first.stop(None)


@pytest.mark.parametrize("hidden", [1, 64, 2048, 7168, 16384, 1 << 20])
def test_the_largest_frame_and_result_fit_into_a_message(hidden: int) -> None:
    rows = limits.rows_per_frame(hidden)
    assert 1 <= rows <= limits.MAX_ROWS_PER_FRAME
    pairs = 3 * 4 * limits.MAX_PAIRS_PER_FRAME
    assert rows * hidden * 4 + pairs + 4096 <= limits.MAX_MESSAGE_BYTES


@pytest.mark.parametrize("intermediate", [1, 16, 1408, 14336, 1 << 20])
def test_the_largest_opening_fits_into_a_message(intermediate: int) -> None:
    pairs = limits.opened_pairs(intermediate)
    assert 1 <= pairs <= limits.MAX_OPENED_PAIRS
    assert 2 * 4 * pairs * intermediate + 4096 <= limits.MAX_MESSAGE_BYTES
    assert limits.opened_pairs(1408) == limits.MAX_OPENED_PAIRS
    assert limits.MAX_OPENED_ROWS <= limits.MAX_CHALLENGED_ROWS_IN_FLIGHT


def test_usual_models_get_full_frames() -> None:
    assert limits.rows_per_frame(2048) == limits.rows_per_frame(7168) == limits.MAX_ROWS_PER_FRAME
    assert limits.CHUNK_BYTES < limits.MAX_MESSAGE_BYTES
