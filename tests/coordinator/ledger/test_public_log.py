"""Entries handed to the log from many threads each get their index once they are on the disk; who enrols is in
the log before there is a ticket."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path

import grpc
import pytest

from folkmoot.coordinator.ledger.log_store import LogNotWrittenError
from folkmoot.coordinator.ledger.public_log import LogClosedError, PublicLog
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_hub import running_hub
from folkmoot.tests.support.scripted_node import ScriptedNode
from folkmoot.trust.checkpoints import log_key
from folkmoot.trust.keys import Identity
from folkmoot.trust.log_entries import EnrolmentEntry, LogEntry
from folkmoot.trust.log_verifier import LogVerifier

OPERATOR = Identity(b"l" * 32)


def entry(number: int) -> LogEntry:
    return LogEntry.signed(EnrolmentEntry(OPERATOR.public, bytes(32), bytes(32), number), OPERATOR)


def entries_of(log: PublicLog, identity: Identity = OPERATOR) -> list[LogEntry]:
    verifier = LogVerifier(log_key(identity.verifying_key), log.read)
    return [LogEntry.decode(data) for _, data in verifier.entries(verifier.checkpoint())]


def test_entries_of_many_threads_stand_where_their_futures_say(tmp_path: Path) -> None:
    log = PublicLog(tmp_path, OPERATOR)
    found: dict[int, Future[int]] = {}

    def write(first: int) -> None:
        for number in range(first, first + 200):
            found[number] = log.append(entry(number))

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 200, 400)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    places = {number: future.result(60) for number, future in found.items()}
    there = entries_of(log)
    assert [there[places[number]] for number in range(600)] == [entry(number) for number in range(600)]
    assert sorted(places.values()) == list(range(600)) == list(range(log.size))
    for first in (0, 200, 400):
        assert [places[number] for number in range(first, first + 200)] == sorted(
            places[number] for number in range(first, first + 200)
        )
    log.close()


def test_what_waits_is_written_before_the_end(tmp_path: Path) -> None:
    log = PublicLog(tmp_path, OPERATOR)
    futures = [log.append(entry(number)) for number in range(300)]
    log.close()
    log.close()
    assert all(future.done() for future in futures)
    with pytest.raises(LogClosedError):
        log.append(entry(300)).result(1)
    again = PublicLog(tmp_path, OPERATOR)
    assert entries_of(again) == [entry(number) for number in range(300)]
    again.close()


def test_a_log_that_cannot_be_written_says_so_and_goes_on_when_it_can(tmp_path: Path) -> None:
    log = PublicLog(tmp_path, OPERATOR)
    log.append(entry(0)).result(60)
    drafts = tmp_path / "log" / "drafts"
    drafts.rmdir()
    drafts.write_bytes(b"in the way")
    with pytest.raises(LogNotWrittenError):
        log.append(entry(1)).result(60)
    drafts.unlink()
    assert log.append(entry(2)).result(60) == 1
    assert entries_of(log) == [entry(0), entry(2)]
    log.close()


class FailingLog:
    """Takes nothing."""

    def append(self, entry: LogEntry) -> Future[int]:
        """Fails."""
        future: Future[int] = Future()
        future.set_exception(LogNotWrittenError("the disk is full"))
        return future


async def test_no_ticket_is_given_that_the_log_does_not_know_of() -> None:
    async with running_hub(MemoryExperts(), entry_log=FailingLog()) as network:
        node = ScriptedNode(network.hub.invite, network.model)
        network.nodes.append(node)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.enrol()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not network.hub.snapshot().nodes


async def test_a_node_is_entered_once_for_each_software(tmp_path: Path) -> None:
    log = PublicLog(tmp_path, OPERATOR)
    async with running_hub(MemoryExperts(), entry_log=log) as network:
        nodes = [ScriptedNode(network.hub.invite, network.model) for _ in range(2)]
        network.nodes.extend(nodes)
        for node in (nodes[0], nodes[1], nodes[0]):
            await node.enrol()
        statements = [found.statement for found in entries_of(log)]
    log.close()
    assert [statement.node for statement in statements if isinstance(statement, EnrolmentEntry)] == [
        node.identity.public for node in nodes
    ]
