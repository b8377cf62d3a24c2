"""What nodes were right about outlives the coordinator, and a damaged file costs only a few rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from folkmoot.coordinator.probe.memory import PROBES_FILE, ProbeMemory
from folkmoot.ids import ExpertKey, NodeId
from folkmoot.tests.support.memory_experts import MemoryExperts

NODE, OTHER = NodeId("aa" * 32), NodeId("bb" * 32)
KEYS = frozenset({ExpertKey(0, 1), ExpertKey(1, 3)})


@pytest.fixture(scope="module")
def model() -> MemoryExperts:
    return MemoryExperts()


def test_it_is_there_again_for_the_same_model_and_not_for_another(
    model: MemoryExperts, tmp_path: Path
) -> None:
    memory = ProbeMemory(tmp_path, model.manifest)
    memory.add(NODE, KEYS)
    memory.add(NODE, [ExpertKey(0, 0)])
    memory.add(OTHER, KEYS)
    memory.forget(OTHER)
    memory.save()
    again = ProbeMemory(tmp_path, model.manifest)
    assert again.of(NODE) == KEYS | {ExpertKey(0, 0)}
    assert not again.of(OTHER)
    assert not ProbeMemory(tmp_path, MemoryExperts(experts=7).manifest).of(NODE)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": "folkmoot-probes/1"}', "\x00" * 100])
def test_a_damaged_file_is_passed_over(
    model: MemoryExperts, tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / PROBES_FILE).write_text(content)
    assert not ProbeMemory(tmp_path, model.manifest).of(NODE)
    assert "probed anew" in caplog.text


def test_a_disk_that_does_not_take_it_is_only_remarked_on(
    model: MemoryExperts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = ProbeMemory(tmp_path / "missing", model.manifest)
    memory.add(NODE, KEYS)
    memory.save()
    assert "cannot be written" in caplog.text
    assert memory.of(NODE) == KEYS
