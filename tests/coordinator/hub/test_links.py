"""Links over real gRPC: the handshake, second links, bad messages, cuts and bans, silence, leaving, stopping."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from folkmoot.coordinator.dispatch.counters import DispatchCounters
from folkmoot.coordinator.dispatch.host import Ending, Failure, SentFrame
from folkmoot.coordinator.hub.link import Link
from folkmoot.coordinator.hub.reachable import reachable_address
from folkmoot.coordinator.hub.roster import NodeRecord
from folkmoot.coordinator.hub.settings import HubSettings
from folkmoot.coordinator.listening import ListenAddressError, PortInUseError
from folkmoot.ids import SessionId
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.protos.folkmoot.v1.link_pb2_grpc import LinkStub
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_hub import RunningHub, running_hub
from folkmoot.tests.support.scripted_node import Fault, ScriptedNode
from folkmoot.trust.keys import Identity, VerifyingKey
from folkmoot.trust.statements import manifest_statement


async def enrolled(network: RunningHub) -> ScriptedNode:
    node = ScriptedNode(network.hub.invite, network.model)
    network.nodes.append(node)
    await node.enrol()
    return node


def hello(node: ScriptedNode, **changes: object) -> link_pb2.NodeMessage:
    fields = {
        "node_key": node.identity.public,
        "node_nonce": secrets.token_bytes(32),
        "ticket": node.ticket,
        "memory_bytes": 1 << 20,
    }
    return link_pb2.NodeMessage(hello=link_pb2.Hello(**{**fields, **changes}))  # type: ignore[arg-type]


async def ends_with(call: grpc.aio.StreamStreamCall[Any, Any]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await call.read() is not grpc.aio.EOF:
            pass
    return caught.value.code()


async def closed(network: RunningHub, node: ScriptedNode) -> link_pb2.Closing:
    await network.until(lambda: node.closing is not None)
    assert node.closing is not None
    return node.closing


async def test_the_welcome_names_the_model_and_is_signed() -> None:
    async with running_hub() as network:
        node = await enrolled(network)
        call = LinkStub(await node.channel()).Attach()
        await call.write(hello(node))
        answer = await call.read()
        assert isinstance(answer, link_pb2.CoordinatorMessage)
        welcome = answer.welcome
        manifest = network.model.manifest
        assert welcome.manifest_digest == manifest.digest
        assert welcome.manifest_length == len(manifest.encoded)
        VerifyingKey(network.identity.public).verify(
            welcome.manifest_signature, manifest_statement(manifest.digest)
        )
        assert len(welcome.coordinator_nonce) == 32
        call.cancel()


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (lambda node: link_pb2.NodeMessage(), grpc.StatusCode.INVALID_ARGUMENT),
        (lambda node: link_pb2.NodeMessage(pong=link_pb2.Pong()), grpc.StatusCode.INVALID_ARGUMENT),
        (lambda node: hello(node, node_nonce=b"x"), grpc.StatusCode.INVALID_ARGUMENT),
        (lambda node: hello(node, node_key=b"\x01" + bytes(31)), grpc.StatusCode.INVALID_ARGUMENT),
        (lambda node: hello(node, node_key=Identity.generate().public), grpc.StatusCode.UNAUTHENTICATED),
    ],
)
async def test_a_wrong_first_message(
    first: Callable[[ScriptedNode], link_pb2.NodeMessage], code: grpc.StatusCode
) -> None:
    async with running_hub() as network:
        node = await enrolled(network)
        call = LinkStub(await node.channel()).Attach()
        await call.write(first(node))
        assert await ends_with(call) is code


@pytest.mark.parametrize(
    "signature", [b"", bytes(64), Identity.generate().sign(b"session")], ids=["none", "zeros", "of another"]
)
async def test_a_key_that_is_not_alive_on_this_stream(signature: bytes) -> None:
    async with running_hub() as network:
        node = await enrolled(network)
        call = LinkStub(await node.channel()).Attach()
        await call.write(hello(node))
        await call.read()
        await call.write(link_pb2.NodeMessage(attached=link_pb2.Attached(session_signature=signature)))
        assert await ends_with(call) is grpc.StatusCode.UNAUTHENTICATED
        assert network.seen(node).state == "lost"


async def test_a_silent_handshake_ends() -> None:
    async with running_hub(handshake_s=0.05) as network:
        node = await enrolled(network)
        call = LinkStub(await node.channel()).Attach()
        assert await ends_with(call) is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_second_link_takes_the_place_of_the_first() -> None:
    async with running_hub() as network:
        (first,) = await network.join_ready(None)
        second = await network.join(identity=first.identity)
        assert not (await closed(network, first)).retry
        await network.settled()
        assert len(network.hub.snapshot().nodes) == 1
        await network.check(0)
        assert second.frames
        assert not first.frames


@pytest.mark.parametrize(
    "message",
    [
        link_pb2.NodeMessage(),
        link_pb2.NodeMessage(hello=link_pb2.Hello()),
        link_pb2.NodeMessage(attached=link_pb2.Attached()),
        link_pb2.NodeMessage(holdings=link_pb2.Holdings(ready=[link_pb2.ExpertRange(layer=0, experts=[99])])),
        link_pb2.NodeMessage(
            holdings=link_pb2.Holdings(refused=[link_pb2.ExpertRange(layer=77, experts=[0])])
        ),
        link_pb2.NodeMessage(
            holdings=link_pb2.Holdings(ready=[link_pb2.ExpertRange(layer=0, experts=[0] * 1000)])
        ),
    ],
    ids=["empty", "hello", "attached", "no such expert", "no such layer", "too many"],
)
async def test_a_message_that_does_not_belong_costs_the_link(message: link_pb2.NodeMessage) -> None:
    async with running_hub() as network:
        node, other = await network.join_ready(None, None)
        await node.send(message)
        assert "wire contract" in (await closed(network, node)).reason
        await network.until(lambda: network.seen(node).state == "lost")
        assert (await network.check(0)).nodes == {other.node}


async def test_bytes_that_are_no_message_cost_the_link() -> None:
    async with running_hub() as network:
        (good,) = await network.join_ready(None)
        channel = await good.channel()
        attach: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            "/folkmoot.v1.Link/Attach"
        )
        call = attach()
        await call.write(b"\xff\xff\xff\xff")
        assert await ends_with(call) is grpc.StatusCode.INVALID_ARGUMENT
        await network.check(0)


async def test_harmless_noise_is_ignored() -> None:
    async with running_hub() as network:
        (node,) = await network.join_ready(None)
        await node.send(link_pb2.NodeMessage(pong=link_pb2.Pong(token=12345)))
        await node.send(link_pb2.NodeMessage(refusal=link_pb2.Refusal(sequence=999)))
        await network.check(0)
        assert network.seen(node).state == "ready"


async def test_three_faults_and_a_node_is_not_let_in_again() -> None:
    async with running_hub(dispatch={"expert_wait_s": 20.0}) as network:
        identity = Identity.generate()
        call = asyncio.create_task(network.check(0))
        bad = ScriptedNode(network.hub.invite, network.model)
        for strike in range(3):
            bad = await network.join(Fault.NO_SIGNATURE, identity=identity)
            closing = await closed(network, bad)
            assert closing.retry == (strike < 2)
            assert network.seen(bad).state == "quarantined"
        again = ScriptedNode(network.hub.invite, network.model, identity=identity)
        network.nodes.append(again)
        for ticket in (b"", bad.ticket):
            again.ticket = ticket
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await again.join()
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        good = await network.join()
        tally = await call
        assert tally.nodes == {good.node}
        assert tally.results_rejected == tally.retries == 3


async def test_a_node_that_says_nothing_is_lost() -> None:
    async with running_hub(silence_s=0.2, ping_interval_s=0.05) as network:
        (node,) = await network.join_ready(None)
        node.paused.clear()
        await network.check_waits_for(node)
        await network.until(lambda: network.seen(node).state == "lost")
        assert "said nothing" in network.seen(node).reason


async def test_round_trips_are_measured() -> None:
    async with running_hub() as network:
        (node,) = await network.join_ready(None)
        await network.until(lambda: network.seen(node).round_trip_ms is not None)
        measured = network.seen(node).round_trip_ms
        assert measured is not None
        assert 0 < measured < 5000


async def test_a_node_that_leaves_is_not_waited_for() -> None:
    async with running_hub(lost_grace_s=60.0) as network:
        leaver, stayer = await network.join_ready(None, None, memory_bytes=8 * 1536)
        await network.until(lambda: len(stayer.assigned) + len(leaver.assigned) == 16)
        await leaver.send(link_pb2.NodeMessage(leaving=link_pb2.Leaving(reason="going to bed")))
        await network.until(lambda: network.seen(leaver).reason == "left: going to bed")
        assert network.seen(leaver).state == "lost"
        assert (await network.check(0)).nodes == {stayer.node}


async def test_stopping_tells_every_node_to_come_back() -> None:
    async with running_hub() as network:
        nodes = await network.join_ready(None, None)
        await network.hub.stop()
        await network.until(lambda: all(node.closing is not None for node in nodes))
        assert all(node.closing is not None and node.closing.retry for node in nodes)
        await network.hub.stop()


async def test_a_port_in_use_is_one_clear_error() -> None:
    async with running_hub() as network:
        with pytest.raises(PortInUseError) as caught:
            async with running_hub(MemoryExperts(), port=network.hub.port):
                pass
        assert "--port" in caught.value.advice


@pytest.mark.parametrize("host", ["192.0.2.1", f"{'x' * 70}.example"])
async def test_an_address_that_is_not_this_machines_is_no_port_in_use(
    host: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ListenAddressError, match=f"the coordinator cannot listen on {host}") as caught:
        async with running_hub(host=host):
            pass
    assert "--host" in caught.value.advice
    assert capfd.readouterr().err == "", "gRPC has nothing to add"


def test_invites_name_an_address_that_others_can_reach() -> None:
    assert reachable_address("192.0.2.7") == "192.0.2.7"
    assert reachable_address("moot.example") == "moot.example"
    assert reachable_address("0.0.0.0") not in ("0.0.0.0", "")
    assert reachable_address("::") != "::"


@pytest.mark.parametrize("memory_bytes", [(1 << 62) + 1, (1 << 64) - 1])
async def test_a_node_that_says_it_lends_more_than_there_is_does_not_attach(memory_bytes: int) -> None:
    async with running_hub() as network:
        node = ScriptedNode(network.hub.invite, network.model, memory_bytes=memory_bytes)
        network.nodes.append(node)
        with pytest.raises(grpc.aio.AioRpcError, match="bytes of memory") as caught:
            await node.join()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert network.seen(node).state == "lost"
        await network.join(memory_bytes=1 << 62)


async def test_an_answer_that_was_on_its_way_when_its_link_was_cut_is_nobodys_fault() -> None:
    counters, key = DispatchCounters(), Identity.generate().verifying_key
    session = SessionId(secrets.token_bytes(32))
    link = Link(key, session, HubSettings(), counters, NodeRecord(), lambda *fault: None)
    endings: list[Ending] = []
    frame = SentFrame(
        link_pb2.CoordinatorMessage(), 1, 1.0, 10.0, lambda sent, ending: endings.append(ending)
    )
    link.reserve(frame)
    link.send(frame)
    link.cut("it signs badly", retry=True)
    link.answered(link_pb2.Result(sequence=frame.sequence))
    assert endings == [Failure.LINK_LOST]
    assert counters.totals().rejected == {}
