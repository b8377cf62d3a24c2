"""A node that changes what is said of it without end loses its link; one that only follows what it is told never does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import grpc
import pytest

from folkmoot.coordinator.hub.allowance import MOST_AT_ONCE, PER_SECOND, Allowance
from folkmoot.node_states import Wish
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.protos.wire_states import wire_wish
from folkmoot.tests.support.running_hub import running_hub
from folkmoot.tests.support.scripted_node import ScriptedNode

PATIENCE_S = 60.0


def test_what_is_left_comes_back_with_time_and_with_what_the_node_is_told() -> None:
    allowance = Allowance(0.0)
    assert all(allowance.take(0.0) for _ in range(MOST_AT_ONCE))
    assert not allowance.take(0.0)
    allowance.grant()
    assert allowance.take(0.0) and not allowance.take(0.0)
    assert allowance.take(1 / PER_SECOND) and not allowance.take(1 / PER_SECOND)
    assert sum(allowance.take(1e9) for _ in range(2 * MOST_AT_ONCE)) == MOST_AT_ONCE


def test_what_is_granted_is_not_hoarded() -> None:
    allowance = Allowance(0.0)
    for _ in range(5 * MOST_AT_ONCE):
        allowance.grant()
    assert sum(allowance.take(0.0) for _ in range(2 * MOST_AT_ONCE)) == MOST_AT_ONCE


def pause(number: int, node: ScriptedNode) -> link_pb2.NodeMessage:
    """The same wish for another reason."""
    return link_pb2.NodeMessage(wish=link_pb2.Wish(kind=wire_wish(Wish.PAUSE), reason=f"reason {number}"))


def refusal(number: int, node: ScriptedNode) -> link_pb2.NodeMessage:
    """The same refusal for another reason: of the first of all that it is to host."""
    first, *others = sorted(node.assigned)
    return link_pb2.NodeMessage(
        holdings=link_pb2.Holdings(
            epoch=node.epoch,
            ready=[link_pb2.ExpertRange(layer=key.layer, experts=[key.expert]) for key in others],
            refused=[link_pb2.ExpertRange(layer=first.layer, experts=[first.expert])],
            reason=f"reason {number}",
        )
    )


@pytest.mark.parametrize("change", [pause, refusal])
async def test_a_node_that_changes_its_mind_without_end_is_cut_off_and_may_come_back(
    change: Callable[[int, ScriptedNode], link_pb2.NodeMessage],
) -> None:
    async with running_hub() as network:
        [node] = await network.join_ready(None)
        node.reports_ready = False
        told: list[str] = []
        network.hub.subscribe(lambda who, change: told.append(change.reason))
        for number in range(3 * MOST_AT_ONCE):
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await node.send(change(number, node))
        await network.until(lambda: network.seen(node).state.value == "lost", PATIENCE_S)
        assert "too often" in network.seen(node).reason
        assert len(told) < 2 * MOST_AT_ONCE
        again = await network.join(identity=node.identity)
        await network.until(lambda: network.seen(again).state.value == "ready", PATIENCE_S)
