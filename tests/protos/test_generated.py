"""Proven: the checked-in modules are what the `.proto` files and the pinned tools give, a stale one is noticed, and every
message of the contract crosses the wire."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.message import Message

from folkmoot.protos.folkmoot.v1 import enrolment_pb2, experts_pb2, link_pb2, tensor_pb2

PROTOS = Path(__file__).resolve().parents[2] / "protos"


def generate(room: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a room's generator as `make protos` does, from a neutral folder."""
    command = [sys.executable, str(room / "generate.py"), *arguments]
    return subprocess.run(command, cwd=room.parent, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    room = tmp_path / "protos"
    shutil.copytree(PROTOS, room, ignore=shutil.ignore_patterns("__pycache__"))
    return room


def test_what_is_checked_in_is_current(copy: Path) -> None:
    ran = generate(copy, "--check")
    assert ran.returncode == 0, f"run `make protos`: {ran.stderr}"


def test_a_changed_contract_is_noticed_and_generated_anew(copy: Path) -> None:
    contract = copy / "folkmoot" / "v1" / "tensor.proto"
    contract.write_text(contract.read_text().replace("uint64 length = 3;", "uint64 length = 13;"))
    stale = generate(copy, "--check")
    assert stale.returncode != 0
    assert "tensor_pb2.py" in stale.stderr and "make protos" in stale.stderr
    assert generate(copy).returncode == 0
    assert generate(copy, "--check").returncode == 0


def test_a_contract_that_does_not_parse_is_an_error(copy: Path) -> None:
    (copy / "folkmoot" / "v1" / "tensor.proto").write_text('syntax = "proto3"; message {')
    assert generate(copy, "--check").returncode != 0


def test_every_service_of_the_contract_is_there() -> None:
    services = {
        method.full_name
        for module in (enrolment_pb2, experts_pb2, link_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert services == {
        "folkmoot.v1.Enrolment.Challenge",
        "folkmoot.v1.Enrolment.Enrol",
        "folkmoot.v1.Experts.Manifest",
        "folkmoot.v1.Experts.Fetch",
        "folkmoot.v1.Link.Attach",
    }


@pytest.mark.parametrize(
    "message",
    [
        link_pb2.NodeMessage(
            result=link_pb2.Result(
                sequence=2**64 - 1, output=tensor_pb2.Tensor(shape=[2**32 - 1]), signature=b"s" * 64
            )
        ),
        link_pb2.CoordinatorMessage(frame=link_pb2.Frame(sequence=1, layer=2, deadline_ms=5000)),
        link_pb2.CoordinatorMessage(closing=link_pb2.Closing(reason="moved", retry=True)),
        enrolment_pb2.EnrolRequest(name="Dachboden ü", invite_proof=b"p" * 32),
        experts_pb2.Chunk(offset=2**40, data=b"d"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_crosses_the_wire(message: Message) -> None:
    again = type(message).FromString(message.SerializeToString())
    assert again == message
