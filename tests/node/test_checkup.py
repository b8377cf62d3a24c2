"""What the doctor finds: each thing that is wrong is named, and says how to mend it; what is well is not."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from folkmoot.cli.main import run
from folkmoot.kernels import native_library
from folkmoot.node.checkup import disk, examine, machine, network, speed
from folkmoot.node.checkup.finding import Finding, Grade
from folkmoot.node.checkup.speed import Speed
from folkmoot.node.joined import Joined, JoinedBook
from folkmoot.node.process import NodeProcess
from folkmoot.node.settings import NodeSettings
from folkmoot.tests.support.running_node import node_settings
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator
from folkmoot.trust.invite import Invite
from folkmoot.trust.keys import Identity

GIB = 1 << 30


def settings(state: Path, **changes: Any) -> NodeSettings:
    return node_settings("", state, **changes)


def test_nothing_that_has_to_be_mended_goes_without_saying_how() -> None:
    with pytest.raises(ValueError, match="must say how"):
        Finding("disk", Grade.MEND, "it is full")


def test_no_compiler_matters_only_where_nothing_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(native_library, "load", object)
    assert machine.compiler().grade is Grade.FIT
    monkeypatch.setattr(native_library, "load", lambda: None)
    found = machine.compiler()
    assert found.grade is Grade.MEND
    assert "apt install" in found.mend


@pytest.mark.parametrize(
    ("flags", "switch", "grade", "word"),
    [
        (["avx2"], "", Grade.MEND, "again"),
        (["avx2"], "torch", Grade.NOTE, "unset"),
        (["sse2"], "", Grade.NOTE, ""),
    ],
)
def test_kernels_that_do_not_run_are_explained(
    flags: list[str], switch: str, grade: Grade, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_library, "load", lambda: None)
    monkeypatch.setattr(machine, "flags", lambda: flags)
    monkeypatch.setenv(native_library.SWITCH, switch)
    found = machine.kernels()
    assert found.grade is grade
    assert word in found.mend


def test_memory_counts_what_a_running_node_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory_bytes", lambda: 2 * GIB)
    monkeypatch.setattr(machine, "memory_left_bytes", lambda: None)
    lending = settings(tmp_path, memory_bytes=3 * GIB)
    found = machine.memory(lending, 0)
    assert found.grade is Grade.MEND
    assert "memory_bytes" in found.mend
    assert machine.memory(lending, 2 * GIB).grade is Grade.FIT


def test_more_threads_than_cores_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "default_threads", lambda: 2)
    assert machine.threads(settings(tmp_path, threads=2)).grade is Grade.FIT
    assert "--threads 2" in machine.threads(settings(tmp_path, threads=3)).mend


def test_a_disk_is_measured_without_leaving_anything(tmp_path: Path) -> None:
    state = tmp_path / "not" / "yet" / "there"
    found = disk.speed(settings(state), size=4 << 20)
    assert "writes" in found.says
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": GIB})())
    assert disk.room(settings(tmp_path, disk_bytes=GIB)).grade is Grade.FIT
    found = disk.room(settings(tmp_path, disk_bytes=2 * GIB))
    assert found.grade is Grade.MEND
    assert "disk_bytes" in found.mend
    assert disk.speed(settings(tmp_path), size=GIB).grade is Grade.NOTE


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "chown" in disk.room(settings(tmp_path)).mend


def test_a_key_that_others_can_read_is_named_and_none_is_made(tmp_path: Path) -> None:
    assert disk.identity(settings(tmp_path)).grade is Grade.NOTE
    assert not (tmp_path / "identity.key").exists()
    Identity.load_or_create(tmp_path / "identity.key")
    assert disk.identity(settings(tmp_path)).grade is Grade.FIT
    (tmp_path / "identity.key").chmod(0o644)
    assert "chmod 600" in disk.identity(settings(tmp_path)).mend


def test_a_folder_that_cannot_be_seen_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", _denied)
    for finding in (
        disk.identity(settings(tmp_path)),
        disk.room(settings(tmp_path)),
        disk.speed(settings(tmp_path), size=1),
    ):
        assert finding.grade is Grade.MEND
        assert str(tmp_path) in finding.says
        assert "Permission denied" in finding.says


def _denied(path: Path) -> bool:
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


async def test_a_coordinator_is_reached_known_by_its_key_and_its_clock_compared(
    coordinator: ScriptedCoordinator,
) -> None:
    reached, clock = await network.coordinators((Joined("london", coordinator.invite, 0),), 60.0)
    assert reached.grade is clock.grade is Grade.FIT
    assert "with the key of the invite" in reached.says
    coordinator.script.clock_ahead_s = 3600.0
    _, clock = await network.coordinators((Joined("london", coordinator.invite, 0),), 60.0)
    assert clock.grade is Grade.MEND
    assert "behind" in clock.says
    assert "timedatectl" in clock.mend
    assert not coordinator.enrolled


async def test_nobody_and_somebody_else_are_told_apart(coordinator: ScriptedCoordinator) -> None:
    invite = Invite.parse(coordinator.invite)
    other = Invite(invite.host, invite.port, bytes(32), invite.join_secret).encode()
    nobody = Invite("127.0.0.1", 9, invite.fingerprint, invite.join_secret).encode()
    joined = (Joined("other", other, 0), Joined("nobody", nobody, 0))
    findings = await network.coordinators(joined, 60.0)
    assert [finding.grade for finding in findings] == [Grade.MEND, Grade.MEND]
    assert "another coordinator answers" in findings[0].says
    assert "no coordinator answers" in findings[1].says


async def test_a_coordinator_that_does_not_answer_in_time_is_named(
    coordinator: ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(network, "_compare_clocks", silent)
    (found,) = await network.coordinators((Joined("london", coordinator.invite, 0),), 60.0)
    assert found.grade is Grade.MEND
    assert "does not answer in time" in found.says


def test_an_older_coordinator_does_not_tell_its_time() -> None:
    assert network.clock("london", None).grade is Grade.NOTE
    assert network.clock("london", -30.0).says == "30.0 s ahead"


def test_throughput_is_set_against_memory() -> None:
    measured = speed.measure(1, 16 << 20)
    assert measured.computed > 0
    assert measured.read > 0
    assert Speed(6e9, 10e9).finding().grade is Grade.FIT
    slow = Speed(4e9, 10e9).finding()
    assert (slow.grade, "40%" in slow.says, bool(slow.mend)) == (Grade.NOTE, True, True)


async def test_a_running_node_is_seen_with_what_it_holds(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    running = NodeProcess(node_settings(coordinator.invite, tmp_path))
    try:
        await running.start()
        link = await coordinator.link()
        keys = list(coordinator.experts.blobs)
        await link.settled(link.assign(keys), ready=keys)
        held, found = await asyncio.to_thread(examine._running, settings(tmp_path))
        assert held == sum(map(len, coordinator.experts.blobs.values()))
        assert found.grade is Grade.FIT
    finally:
        await running.stop()
    held, found = await asyncio.to_thread(examine._running, settings(tmp_path))
    assert (held, found.grade) == (0, Grade.NOTE)


def test_the_command_ends_with_1_only_when_something_has_to_be_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "measure", lambda threads, size: Speed(6e9, 10e9))
    monkeypatch.setattr(disk, "speed", lambda settings: Finding("disk speed", Grade.FIT, "fast"))
    arguments = [
        "node",
        "doctor",
        "--state",
        str(tmp_path),
        "--memory",
        "1MiB",
        "--disk",
        "1MiB",
        "--threads",
        "1",
    ]
    code = run([*arguments, "--json"])
    document = json.loads(capsys.readouterr().out)
    wrong = [finding["name"] for finding in document["findings"] if finding["grade"] == "mend"]
    assert (code, document["fit"]) == (0 if not wrong else 1, not wrong)
    assert {"compiler", "kernels", "memory", "disk", "throughput", "coordinators"} <= {
        finding["name"] for finding in document["findings"]
    }
    JoinedBook(tmp_path).add(Invite("127.0.0.1", 9, bytes(32), bytes(16)).encode(), "london")
    assert run(arguments) == 1
    captured = capsys.readouterr()
    assert "mend  coordinator london: no coordinator answers" in captured.out
    assert "-> check that the coordinator runs" in captured.out
    assert "to mend" in captured.err
