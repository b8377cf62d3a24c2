"""What a node's standing means at its link: one that is turned out loses its experts and its link at once, with the reason, and is
let in again only when admitted; challenges are answered, run out of time, or end with the link, each once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from folkmoot.coordinator.audit.standing_book import StandingBook
from folkmoot.coordinator.dispatch.challenge import Opened, SentChallenge, Unopened
from folkmoot.coordinator.hub.questions import Questions
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.protos.limits import MAX_CHALLENGED_ROWS_IN_FLIGHT
from folkmoot.tests.support.kept_books import books_in
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_hub import RunningHub, running_hub
from folkmoot.tests.support.scripted_node import Fault, ScriptedNode
from folkmoot.trust.keys import Identity
from folkmoot.trust.standing import StandingSettings, Status


def book() -> StandingBook:
    return StandingBook(None, StandingSettings())


def hosts(network: RunningHub) -> set[str]:
    return {host.node for layer in (0, 1) for host in network.hub.directory.layer(layer).hosts}


async def test_a_verdict_routes_around_the_node_at_once_and_tells_it_why() -> None:
    standings = book()
    async with running_hub(standings=standings) as network:
        bad, good = await network.join_ready(None, None)
        await asyncio.to_thread(standings.convicted, bad.node, "row 3 was wrong")
        await network.until(lambda: hosts(network) == {good.node})
        await network.until(lambda: bad.closing is not None)
        assert bad.closing is not None
        assert not bad.closing.retry
        assert "row 3 was wrong" in bad.closing.reason
        seen = network.seen(bad)
        assert (seen.state.value, seen.standing, seen.reason) == (
            "quarantined",
            Status.QUARANTINED,
            "row 3 was wrong",
        )
        await network.check(0)


async def test_who_is_turned_out_is_not_let_in_until_admitted() -> None:
    standings = book()
    async with running_hub(standings=standings) as network:
        node = await network.join()
        ticket = node.ticket
        standings.banned(node.node, "enough is enough")
        await network.until(lambda: node.closing is not None)
        again = ScriptedNode(network.hub.invite, network.model, identity=node.identity)
        network.nodes.append(again)
        with pytest.raises(grpc.aio.AioRpcError, match="enough is enough") as enrolling:
            await again.enrol()
        assert enrolling.value.code() is grpc.StatusCode.PERMISSION_DENIED
        again.ticket = ticket
        again.coordinator = node.coordinator
        with pytest.raises((grpc.aio.AioRpcError, AttributeError)):
            await again.join()
        standings.admitted(node.node, "a second chance")
        back = await network.join(identity=node.identity)
        await network.until(lambda: back.assigned)
        assert network.seen(back).standing is Status.PROBATION


async def test_those_turned_out_in_an_earlier_life_are_shown() -> None:
    standings = book()
    node = ScriptedNode.__name__.encode().hex().ljust(64, "0")
    standings.met(node, "old friend")  # type: ignore[arg-type]
    standings.banned(node, "long ago")  # type: ignore[arg-type]
    async with running_hub(standings=standings) as network:
        (shown,) = network.hub.snapshot().document()["nodes"]
        assert (shown["name"], shown["state"], shown["standing"]) == ("old friend", "quarantined", "banned")
        assert shown["standing_reason"] == "long ago"


async def test_a_newcomer_beside_members_gets_few_experts_until_it_is_one() -> None:
    standings = StandingBook(None, StandingSettings(probation_audits=1, probation_experts=2))
    async with running_hub(MemoryExperts(layers=(0, 1, 2), experts=4), standings=standings) as network:
        for node in await network.join_ready(None, None):
            standings.audit_passed(node.node)
        third = await network.join()
        await network.until(lambda: third.assigned)
        assert len(third.assigned) == 2
        standings.audit_passed(third.node)
        await network.until(lambda: len(third.assigned) == 8)


class Ends:
    """What became of challenges."""

    def __init__(self) -> None:
        self.ended: list[Opened] = []

    def challenge(self, nonce: bytes, rows: int = 1, deadline_s: float = 5.0) -> SentChallenge:
        return SentChallenge(link_pb2.Challenge(nonce=nonce), rows, deadline_s, self.ended.append)


async def test_a_challenge_ends_once_however_it_ends() -> None:
    async with running_hub() as network:
        (node,) = await network.join_ready(None)
        (host,) = network.hub.directory.layer(0).nodes
        ends = Ends()
        host.ask(ends.challenge(b"opened"))
        opening = link_pb2.Opening(nonce=b"opened", refused="not today")
        await asyncio.sleep(0)
        for message in (opening, opening, link_pb2.Opening(nonce=b"never asked")):
            await node.send(link_pb2.NodeMessage(opening=message))
        await network.until(lambda: ends.ended)
        host.ask(ends.challenge(b"late", deadline_s=0.01))
        await network.until(lambda: len(ends.ended) == 2)
        host.ask(ends.challenge(b"lost"))
        await asyncio.sleep(0)
        await node.leave()
        await network.until(lambda: len(ends.ended) == 3)
        host.ask(ends.challenge(b"after the end"))
        await network.until(lambda: len(ends.ended) == 4)
        assert ends.ended == [opening, Unopened.LATE, Unopened.LINK_LOST, Unopened.LINK_LOST]


def test_challenges_wait_for_room() -> None:
    questions, ends = Questions(), Ends()
    half = MAX_CHALLENGED_ROWS_IN_FLIGHT // 2
    for number in range(3):
        questions.offer(ends.challenge(bytes([number]), rows=half))
    first = questions.admit()
    assert [challenge.message.nonce for challenge in first] == [b"\0", b"\1"]
    assert questions.take(b"\2") is None
    assert questions.take(b"\0") is first[0]
    assert questions.take(b"\0") is None
    assert [challenge.message.nonce for challenge in questions.admit()] == [b"\2"]
    questions.offer(ends.challenge(b"waits", rows=half))
    assert {challenge.message.nonce for challenge in questions.drain()} == {b"\1", b"\2", b"waits"}
    assert questions.drain() == []


async def test_who_is_cut_off_too_often_stays_out_over_restarts_until_admitted(tmp_path: Path) -> None:
    identity = Identity.generate()
    with books_in(tmp_path) as books:
        standings = StandingBook(books.standings, StandingSettings())
        async with running_hub(
            standings=standings, faults_before_ban=2, dispatch={"expert_wait_s": 20.0}
        ) as network:
            call = asyncio.create_task(network.check(0))
            for _ in range(2):
                bad = await network.join(Fault.OTHER_KEY, identity=identity)
                await network.until(lambda bad=bad: bad.closing is not None)  # type: ignore[misc]
            await network.until(lambda: not standings.of(identity.node_id).serves)
            await network.until(lambda: standings.saved)
            seen = network.seen(bad)
            assert (seen.state.value, seen.standing) == ("quarantined", Status.QUARANTINED)
            await network.join()
            await call
    with books_in(tmp_path) as books:
        standings = StandingBook(books.standings, StandingSettings())
        reason = standings.of(identity.node_id).reason
        assert reason == (
            "cut off 2 times for results that cannot be used, the last time: a result was rejected (signature_wrong)"
        )
        async with running_hub(standings=standings) as network:
            again = ScriptedNode(network.hub.invite, network.model, identity=identity)
            network.nodes.append(again)
            with pytest.raises(grpc.aio.AioRpcError, match="cut off 2 times"):
                await again.enrol()
            standings.admitted(identity.node_id, "its disk was replaced")
            await network.join_ready(None, identity=identity)
            await network.check(0)
