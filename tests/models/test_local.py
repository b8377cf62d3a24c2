"""`LocalExperts` sums what `feed_forward` gives, whatever the order of routing, from files that it only maps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from folkmoot.ids import ExpertKey
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.torch_expert import expert_forward
from folkmoot.models.local import LocalExperts, by_expert
from folkmoot.models.pool import StepTally
from folkmoot.tests.support.prepared_models import TinyModels


@pytest.mark.parametrize("family", ["olmoe", "granitemoe", "gpt_oss", "llama"])
def test_rows_are_gated_sums_over_their_experts(family: str, tiny_models: TinyModels) -> None:
    prepared = tiny_models.get(family).prepared
    pool, tally = LocalExperts(prepared), StepTally()
    layer, keys = next(iter(prepared.manifest.layers.items()))
    hidden = torch.randn(6, prepared.manifest.hidden)
    experts = torch.stack([torch.randperm(len(keys))[:3] for _ in range(6)])
    gates = torch.rand(6, 3)

    answer = pool.submit(layer, hidden, experts, gates, tally).result()

    spec = prepared.manifest.spec_of(keys[0])
    wanted = torch.zeros(6, prepared.manifest.hidden)
    for row in range(6):
        for expert, gate in zip(experts[row].tolist(), gates[row].tolist(), strict=True):
            weights = Expert.load(spec, prepared.read_expert(ExpertKey(layer, expert)))
            wanted[row] += gate * expert_forward(weights, hidden[row : row + 1])[0]
    torch.testing.assert_close(answer, wanted, atol=1e-5, rtol=1e-5)
    assert tally.layers == 1


def test_the_order_of_routing_changes_no_bit(tiny_models: TinyModels) -> None:
    prepared = tiny_models.get("olmoe").prepared
    pool = LocalExperts(prepared)
    hidden = torch.randn(5, prepared.manifest.hidden)
    experts = torch.stack([torch.randperm(8)[:4] for _ in range(5)])
    gates = torch.rand(5, 4)
    one = pool.submit(0, hidden, experts, gates, StepTally()).result()
    other = pool.submit(0, hidden, experts.flip(-1), gates.flip(-1), StepTally()).result()
    assert torch.equal(one, other)


def test_the_pool_has_its_own_copy_of_the_rows(tiny_models: TinyModels) -> None:
    prepared = tiny_models.get("olmoe").prepared
    pool = LocalExperts(prepared)
    hidden = torch.randn(2, prepared.manifest.hidden)
    experts, gates = torch.tensor([[1, 2], [2, 3]]), torch.ones(2, 2)
    wanted = pool.submit(0, hidden, experts, gates, StepTally()).result()
    future = pool.submit(0, hidden, experts, gates, StepTally())
    hidden.zero_()
    assert torch.equal(future.result(), wanted)


def test_pairs_are_sorted_by_expert_then_row() -> None:
    groups = by_expert(torch.tensor([[3, 1], [1, 0]]), torch.tensor([[0.3, 0.1], [0.2, 0.4]]))
    plain = [
        (expert, rows.tolist(), [round(gate, 3) for gate in gates.tolist()]) for expert, rows, gates in groups
    ]
    assert plain == [(0, [1], [0.4]), (1, [0, 1], [0.1, 0.2]), (3, [0], [0.3])]


def test_experts_are_mapped_read_only_from_the_published_file(tiny_models: TinyModels) -> None:
    tiny = tiny_models.get("olmoe")
    pool = LocalExperts(tiny.prepared)
    hidden = torch.randn(1, tiny.prepared.manifest.hidden)
    pool.submit(0, hidden, torch.tensor([[4]]), torch.ones(1, 1), StepTally()).result()
    address = pool._experts.expert(ExpertKey(0, 4)).weights["up"].data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end, rights, path = re.match(r"(\w+)-(\w+) (\S+) \S+ \S+ \S+\s*(.*)", line).groups()  # type: ignore[union-attr]
        if int(begin, 16) <= address < int(end, 16):
            assert rights.startswith("r--")
            assert Path(path) == tiny.checkpoint / "model.safetensors"
            return
    pytest.fail("the expert's weights lie in no mapping")
