"""Experts by range from a real HTTP server: right bytes, or a clear error and the next source; whatever the server does."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from folkmoot import disk
from folkmoot.disk import DiskFullError
from folkmoot.errors import FolkmootError
from folkmoot.node.batch import BARREN_TRIES_OF_OTHERS, Manners
from folkmoot.node.sources.hub import ModelHub
from folkmoot.node.sources.standing import Standings
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.published_experts import (
    OwnCoordinator,
    check,
    downloader,
    file_of,
    hub_at,
    hub_files,
    outcomes,
    published,
)
from folkmoot.tests.support.range_server import Fault, RangeServer, Script, range_server

UNFIT = {
    Fault.IGNORES_RANGE: "whole files where parts are asked for",
    Fault.WRONG_RANGE: "it sends bytes 1-",
    Fault.NO_RANGE_SAID: "an unknown part",
    Fault.NOT_FOUND: "it answers 404",
    Fault.FORBIDDEN: "it answers 403",
    Fault.TRUNCATED: "/24576 of experts.bin for",
    Fault.ENCODED: "an encoding that was not asked for",
    Fault.CIRCLES: "in a circle",
}
"""Faults after which a server is not asked again, and what is said of it."""


async def test_neighbours_come_in_one_request_and_nothing_else_comes(
    experts: BareExperts, tmp_path: Path
) -> None:
    keys = [*experts.keys[1:4], *experts.keys[5:7]]
    with range_server(hub_files(experts)) as server:
        async with hub_at(server.address) as hub:
            own = OwnCoordinator(experts)
            source = downloader(experts, tmp_path / "store", hub, own)
            check(experts, await outcomes(source, keys))
        size = experts.expert_bytes
        assert [(part.first, part.length) for part in server.asked] == [
            (size, 3 * size),
            (5 * size, 2 * size),
        ]
        assert server.bytes_sent == len(keys) * size == source.traffic.fetched_bytes
    assert not own.asked
    assert source.traffic.unready_bytes == 0


async def test_tensors_that_lie_in_another_order_are_one_request_too(tmp_path: Path) -> None:
    experts = published(BareExperts.make(), reversed_tensors=True)
    with range_server(hub_files(experts)) as server:
        async with hub_at(server.address) as hub:
            source = downloader(experts, tmp_path / "store", hub, OwnCoordinator(experts))
            check(experts, await outcomes(source, experts.keys))
        assert [(part.first, part.length) for part in server.asked] == [(0, len(file_of(experts)))]


@pytest.mark.parametrize("fault", UNFIT, ids=lambda fault: fault.name)
async def test_a_server_that_breaks_the_rules_is_dropped_for_the_next_source(
    fault: Fault, experts: BareExperts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with range_server(hub_files(experts), Script(fault)) as server:
        async with hub_at(server.address) as hub:
            own = OwnCoordinator(experts)
            source = downloader(experts, tmp_path / "store", hub, own)
            check(experts, await outcomes(source, experts.keys[:4]))
            asked = len(server.asked)
            check(experts, await outcomes(source, experts.keys[4:]))
        assert len(server.asked) == asked, "a source that is unfit is not asked again"
    assert own.asked == experts.keys
    assert caplog.text.count("not asked any more for this model") == 1
    assert UNFIT[fault] in caplog.text


@pytest.mark.parametrize("fault", [*UNFIT, Fault.BROKEN, Fault.WRONG_BYTES], ids=lambda fault: fault.name)
async def test_without_another_source_the_error_says_why(
    fault: Fault, experts: BareExperts, tmp_path: Path
) -> None:
    with range_server(hub_files(experts), Script(fault)) as server:
        async with hub_at(server.address) as hub:
            source = downloader(experts, tmp_path / "store", hub)
            found = await outcomes(source, experts.keys[:2])
    said = {**UNFIT, Fault.BROKEN: "answers 500", Fault.WRONG_BYTES: "SHA-256"}[fault]
    for outcome in found.values():
        assert isinstance(outcome, FolkmootError)
        assert said in str(outcome)
    assert not list((tmp_path / "store").glob("??/*[0-9a-f]")), "nothing lies under an expert's name"


async def test_wrong_bytes_are_never_used_and_who_sent_them_is_not_asked_again(
    experts: BareExperts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with range_server(hub_files(experts), Script(Fault.WRONG_BYTES, times=1)) as server:
        async with hub_at(server.address) as hub:
            own = OwnCoordinator(experts)
            source = downloader(experts, tmp_path / "store", hub, own)
            check(experts, await outcomes(source, experts.keys))
            assert len(server.asked) == 1
            check(experts, await outcomes(source, experts.keys))
    assert own.asked == experts.keys, "what was on its way from a liar is not kept either"
    assert caplog.text.count("do not have the manifest's SHA-256") == 1


async def test_a_liar_about_one_model_may_be_right_about_another(
    experts: BareExperts, tmp_path: Path
) -> None:
    other = published(BareExperts.make(seed=1))
    standings = Standings()
    with range_server(
        hub_files(other)
    ) as server:  # under the same names, so that for one model every byte is wrong
        async with hub_at(server.address) as hub:
            own = OwnCoordinator(experts)
            first = downloader(experts, tmp_path / "one", hub, own, standings=standings)
            check(experts, await outcomes(first, experts.keys))
            second = downloader(other, tmp_path / "two", hub, standings=standings)
            check(other, await outcomes(second, other.keys))
    assert own.asked == experts.keys


async def test_a_dropped_connection_goes_on_where_it_stopped(experts: BareExperts, tmp_path: Path) -> None:
    script = Script(Fault.DROPS, times=3, drop_after=7000)
    with range_server(hub_files(experts), script) as server:
        async with hub_at(server.address) as hub:
            source = downloader(experts, tmp_path / "store", hub)
            check(experts, await outcomes(source, experts.keys))
        assert [part.first for part in server.asked] == [0, 7000, 14000, 21000]
        assert server.bytes_sent == len(file_of(experts)) == source.traffic.fetched_bytes


async def test_a_server_that_answers_nothing_is_left_alone_for_the_next(
    experts: BareExperts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for fault in (Fault.SILENT, Fault.SILENT_MIDWAY):
        with range_server(hub_files(experts), Script(fault, drop_after=3000)) as server:
            async with hub_at(server.address, stall_s=0.3) as hub:
                own = OwnCoordinator(experts)
                source = downloader(experts, tmp_path / fault.name, hub, own)
                check(experts, await outcomes(source, experts.keys))
            assert len(server.asked) == 1
        assert own.asked == experts.keys
    assert caplog.text.count("says nothing") == 2
    assert "left alone for 300 s" in caplog.text


async def test_a_server_that_breaks_down_is_tried_again_and_then_left_alone(
    experts: BareExperts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with range_server(hub_files(experts), Script(Fault.BROKEN)) as server:
        async with hub_at(server.address) as hub:
            own = OwnCoordinator(experts)
            check(experts, await outcomes(downloader(experts, tmp_path / "store", hub, own), experts.keys))
        assert len(server.asked) == BARREN_TRIES_OF_OTHERS
    assert own.asked == experts.keys
    assert "answers 500" in caplog.text


async def test_a_slow_server_is_left_alone_while_there_is_another(
    experts: BareExperts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manners = Manners(pause_s=0.01, floor_bytes_per_s=1 << 30, window_s=0.1)
    for others in (True, False):
        with range_server(hub_files(experts), Script(Fault.SLOW, slow_s=0.02)) as server:
            async with hub_at(server.address) as hub:
                own = OwnCoordinator(experts)
                sources = (hub, own) if others else (hub,)
                source = downloader(experts, tmp_path / str(others), *sources, manners=manners)
                check(experts, await outcomes(source, experts.keys[:4]))
            asked = len(server.asked)
        assert asked == 1
        assert bool(own.asked) == others
        assert source.traffic.fetched_bytes == 4 * experts.expert_bytes, "what the slow one brought is kept"
    assert caplog.text.count("it brings less than 1.0 GiB/s") == 1


@pytest.mark.parametrize("retry_after", ["7", "Wed, 21 Oct 2015 07:28:07 GMT"])
async def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(
    retry_after: str, experts: BareExperts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    october_2015 = 1445412480.0
    now = [100.0]
    standings = Standings(clock=lambda: now[0])
    with range_server(hub_files(experts), Script(Fault.BUSY, times=1, retry_after=retry_after)) as server:
        async with hub_at(server.address, unix_time=lambda: october_2015) as hub:
            own = OwnCoordinator(experts)
            source = downloader(experts, tmp_path / "store", hub, own, standings=standings)
            check(experts, await outcomes(source, experts.keys[:2]))
            now[0] += 6.9
            check(experts, await outcomes(source, experts.keys[2:4]))
            assert (len(server.asked), own.asked) == (1, experts.keys[:4])
            now[0] += 0.2
            check(experts, await outcomes(source, experts.keys[4:]))
            assert (len(server.asked), own.asked) == (2, experts.keys[:4])
    assert "left alone for 7 s: the model hub 127.0.0.1 is busy (429)" in caplog.text


@pytest.mark.parametrize(
    "retry_after", ["Fri, 31 Dec 9999 23:59:59 -9900", "Fri, 1 Jan 99999999999999999999 00:00:00 GMT", "soon"]
)
async def test_a_busy_server_that_names_no_time_is_left_alone_for_a_while(
    retry_after: str, experts: BareExperts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with range_server(hub_files(experts), Script(Fault.BUSY, times=1, retry_after=retry_after)) as server:
        async with hub_at(server.address) as hub:
            own = OwnCoordinator(experts)
            source = downloader(experts, tmp_path / "store", hub, own)
            check(experts, await outcomes(source, experts.keys[:2]))
    assert own.asked == experts.keys[:2]
    assert "left alone for 5 s" in caplog.text


async def test_a_source_with_a_fault_of_its_own_is_done_without(
    experts: BareExperts, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("what nobody foresaw")

    monkeypatch.setattr(ModelHub, "_check", fails)
    with range_server(hub_files(experts), Script()) as server:
        async with hub_at(server.address) as hub:
            own = OwnCoordinator(experts)
            source = downloader(experts, tmp_path / "store", hub, own)
            check(experts, await outcomes(source, experts.keys))
        assert len(server.asked) == 1
    assert own.asked == experts.keys
    assert "not asked any more for this model: it fails (RuntimeError" in caplog.text
    assert "Traceback" in caplog.text


async def test_a_busy_server_is_waited_for_when_nobody_else_has_it(
    experts: BareExperts, tmp_path: Path
) -> None:
    with range_server(hub_files(experts), Script(Fault.BUSY, times=2, retry_after="0")) as server:
        async with hub_at(server.address) as hub:
            own = OwnCoordinator(experts, answers=False)
            check(experts, await outcomes(downloader(experts, tmp_path / "store", hub, own), experts.keys))
        assert len(server.asked) == 3


async def test_bytes_after_the_announced_ones_are_not_taken(experts: BareExperts, tmp_path: Path) -> None:
    with range_server(hub_files(experts), Script(Fault.TOO_MUCH)) as server:
        async with hub_at(server.address) as hub:
            source = downloader(experts, tmp_path / "store", hub, OwnCoordinator(experts))
            check(experts, await outcomes(source, [experts.keys[0], experts.keys[2]]))
    assert source.traffic.fetched_bytes == 2 * experts.expert_bytes


async def test_a_redirect_is_followed_once_and_then_known(experts: BareExperts, tmp_path: Path) -> None:
    with range_server(hub_files(experts)) as store:
        script = Script(Fault.REDIRECTS, leads_to=store.address)
        with range_server({}, script) as hub_server:
            trusted = {"trusted_hosts": ["127.0.0.1"], "token": "hub-secret"}
            async with hub_at(hub_server.address, **trusted) as hub:
                source = downloader(experts, tmp_path / "store", hub)
                check(experts, await outcomes(source, [experts.keys[0], experts.keys[2], experts.keys[4]]))
    assert (len(hub_server.asked), len(store.asked)) == (1, 3)
    told = {name.lower(): value for name, value in hub_server.asked[0].headers.items()}
    assert told["authorization"] == "Bearer hub-secret"
    for request in store.asked:
        assert "hub-secret" not in str(request.headers), "the token is the hub's alone"


async def test_where_a_redirect_led_is_forgotten_when_it_does_not_work_any_more(
    experts: BareExperts, tmp_path: Path
) -> None:
    with range_server(hub_files(experts), Script(Fault.FORBIDDEN, times=0)) as store:
        with range_server({}, Script(Fault.REDIRECTS, leads_to=store.address)) as hub_server:
            async with hub_at(hub_server.address, trusted_hosts=["127.0.0.1"]) as hub:
                source = downloader(experts, tmp_path / "store", hub)
                check(experts, await outcomes(source, experts.keys[:1]))
                store.script.times = 1  # as when a signed address expires
                check(experts, await outcomes(source, experts.keys[2:3]))
    assert (len(hub_server.asked), len(store.asked)) == (2, 3)


async def test_a_redirect_into_the_private_network_sends_nothing_there(
    experts: BareExperts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with range_server(hub_files(experts)) as private:
        leads_to = private.address.replace("127.0.0.1", "localhost")
        with range_server({}, Script(Fault.REDIRECTS, leads_to=leads_to)) as hub_server:
            async with hub_at(hub_server.address) as hub:
                own = OwnCoordinator(experts)
                source = downloader(experts, tmp_path / "store", hub, own)
                check(experts, await outcomes(source, experts.keys))
    assert not private.asked
    assert "which is 127.0.0.1: not in public" in caplog.text or "which is ::1: not in public" in caplog.text


async def test_a_server_that_is_not_there_is_left_alone(experts: BareExperts, tmp_path: Path) -> None:
    with range_server({}) as gone:
        pass
    async with hub_at(gone.address) as hub:
        own = OwnCoordinator(experts)
        check(experts, await outcomes(downloader(experts, tmp_path / "store", hub, own), experts.keys))
    assert own.asked == experts.keys


async def test_a_full_disk_is_told_for_each_expert_that_does_not_fit(
    experts: BareExperts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [3 * experts.expert_bytes]
    write = disk.write_all

    def write_all(descriptor: int, data: bytes) -> None:
        if len(data) > room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= len(data)
        write(descriptor, data)

    monkeypatch.setattr(disk, "write_all", write_all)
    with range_server(hub_files(experts)) as server:
        async with hub_at(server.address) as hub:
            source = downloader(experts, tmp_path / "store", hub, OwnCoordinator(experts))
            found = await outcomes(source, experts.keys)
    kept = {key: outcome for key, outcome in found.items() if not isinstance(outcome, FolkmootError)}
    assert list(kept) == experts.keys[:3]
    check(experts, kept)
    assert all(isinstance(found[key], DiskFullError) for key in experts.keys[3:])


def test_the_server_itself_does_right_when_not_told_otherwise(server_of_one_file: RangeServer) -> None:
    url = f"{server_of_one_file.address}/file"
    answer = httpx.get(url, headers={"Range": "bytes=2-4"})
    assert (answer.status_code, answer.content) == (206, b"cde")
    assert answer.headers["content-range"] == "bytes 2-4/10"


@pytest.fixture
def server_of_one_file() -> Iterator[RangeServer]:
    with range_server({"file": b"abcdefghij"}) as server:
        yield server
