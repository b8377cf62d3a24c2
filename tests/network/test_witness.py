"""The witness of churn sees what a process has mapped, and says when coverage is lost though every expert has a live host."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from folkmoot.client import FolkmootClient
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.witness import Witness

MODEL = MemoryExperts()
EXPERTS = len(MODEL.manifest.experts)


class ToldClient(FolkmootClient):
    """A client that is told what the network is."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.node: dict[str, Any] = {
            "name": "ash",
            "state": "ready",
            "experts": EXPERTS,
            "experts_assigned": EXPERTS,
        }
        self.covered = EXPERTS

    def network(self) -> dict[str, Any]:
        """What was told."""
        return {"nodes": [self.node], "coverage": {"covered": self.covered}}


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[list[mmap.mmap]]:
    """This process has every expert mapped, as a node has."""
    held = []
    for entry in MODEL.manifest.experts.values():
        path = tmp_path / "experts" / entry.sha256[:2] / entry.sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(MODEL.read_expert(entry.key))
        with path.open("rb") as stream:
            held.append(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    yield held
    for one in held:
        one.close()


def test_lost_coverage_is_a_fault_only_while_every_expert_has_a_live_host(mapped: list[mmap.mmap]) -> None:
    with ToldClient() as client:
        witness = Witness("http://127.0.0.1:1", MODEL.manifest)
        witness._look(client)
        assert (witness.looks, witness.unsure) == (0, 1), "no process is known yet"
        witness.began("ash", os.getpid())
        witness._look(client)
        assert (witness.looks, witness.faults) == (1, [])
        client.covered, client.node["state"] = EXPERTS - 1, "lost"
        witness._look(client)
        assert len(witness.faults) == 1, "the process lives and has everything: the coordinator lost it"
        mapped.pop().close()
        witness._look(client)
        assert (len(witness.faults), witness.unsure) == (1, 2), "now nobody has one of them"


def test_nobody_may_go_who_is_the_only_sure_host(mapped: list[mmap.mmap]) -> None:
    with ToldClient() as client:
        witness = Witness("http://127.0.0.1:1", MODEL.manifest)
        witness.began("ash", os.getpid())
        witness._look(client)
        assert not witness.may_end("ash")
        assert not witness.may_end("birch"), "what was seen once is not sure"
        witness._look(client)
        assert witness.may_end("birch")
        client.node["experts_assigned"] = EXPERTS - 1
        witness._look(client)
        assert not witness.may_end("birch"), "one is to be dropped, and it is not known which"


def test_a_network_that_does_not_answer_is_a_fault() -> None:
    witness = Witness("http://127.0.0.1:1", MODEL.manifest)
    with FolkmootClient("http://127.0.0.1:1") as client:
        witness._look(client)
    assert len(witness.faults) == 1
