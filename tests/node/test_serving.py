"""A real node on real gRPC joins, fetches, computes, signs, follows assignments, and says goodbye."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from folkmoot.ids import ExpertKey
from folkmoot.node.progress import NodeState
from folkmoot.protos.codec import decode_tensor
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.tests.support.running_node import running_node, until
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator
from folkmoot.tests.support.tiny_experts import TinyExperts

PAIRS = [(0, 0, 0.5), (0, 2, 0.25), (1, 0, 0.5), (3, 1, 1.0), (3, 2, 0.75)]


def output_of(result: link_pb2.Result) -> torch.Tensor:
    return decode_tensor(
        result.output, dtype=torch.float32, shape=(None, None), max_bytes=1 << 20, what="output"
    )


async def test_a_node_computes_what_the_kernel_computes_and_signs_it(
    coordinator: ScriptedCoordinator, experts: TinyExperts, tmp_path: Path
) -> None:
    async with running_node(coordinator.invite, tmp_path / "node") as node:
        link = await coordinator.link()
        assert link.hello.memory_bytes == 64 << 20
        assert link.hello.node_key.hex() == node.node_id
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        await until(lambda: node.state is NodeState.READY)
        for layer in (1, 2):
            hidden = torch.randn(3, 32)
            frame = link.frame(layer, hidden, PAIRS)
            result = await link.answer(frame)
            assert isinstance(result, link_pb2.Result)
            link.check(frame, result)
            torch.testing.assert_close(output_of(result), experts.forward(layer, hidden, PAIRS), rtol=0, atol=1e-6)
        await link.ping(7)
        report = link.holdings[-1]
        assert report.bytes_held == experts.manifest.total_expert_bytes
        assert report.bytes_fetched == experts.manifest.total_expert_bytes
        assert coordinator.enrolled == ["test node"]
    assert link.leaving == "the contributor stopped it"
    assert node.state is NodeState.STOPPED
