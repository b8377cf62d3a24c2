"""What a step promises besides its logits: only the rows asked for, nothing shared between threads, the shared expert computed
while the pool works, canonical routing, and an error when a MoE layer was not answered."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from folkmoot.errors import UnavailableError
from folkmoot.models.local import LocalExperts
from folkmoot.models.pool import ExpertFuture, ExpertPool, StepTally
from folkmoot.models.trunk import FEW_ROWS, IncompleteStepError, Trunk
from folkmoot.tests.support.plain_attention import PlainAttention
from folkmoot.tests.support.prepared_models import TinyModels
from folkmoot.tests.support.trunk_runner import packed_logits, random_tokens


class WatchedPool:
    """Passes calls on, and tells what happens."""

    def __init__(self, pool: ExpertPool, tell: Callable[[str, object], None]) -> None:
        self._pool = pool
        self._tell = tell

    def submit(
        self,
        layer: int,
        hidden: torch.Tensor,
        expert_ids: torch.Tensor,
        gates: torch.Tensor,
        tally: StepTally,
    ) -> ExpertFuture:
        self._tell("submit", (layer, expert_ids.clone(), gates))
        return _WatchedFuture(self._pool.submit(layer, hidden, expert_ids, gates, tally), self._tell)


class _WatchedFuture:
    def __init__(self, future: ExpertFuture, tell: Callable[[str, object], None]) -> None:
        self._future = future
        self._tell = tell

    def result(self) -> torch.Tensor:
        self._tell("result", None)
        return self._future.result()


class ForgetfulPool:
    """Answers, but does not account for it."""

    def __init__(self, pool: ExpertPool) -> None:
        self._pool = pool

    def submit(
        self,
        layer: int,
        hidden: torch.Tensor,
        expert_ids: torch.Tensor,
        gates: torch.Tensor,
        tally: StepTally,
    ) -> ExpertFuture:
        return self._pool.submit(layer, hidden, expert_ids, gates, StepTally())


class GonePool:
    """Has lost the hosts of its experts."""

    def submit(
        self,
        layer: int,
        hidden: torch.Tensor,
        expert_ids: torch.Tensor,
        gates: torch.Tensor,
        tally: StepTally,
    ) -> ExpertFuture:
        raise UnavailableError("no host")


def test_torch_has_one_thread_in_steps_of_few_tokens(tiny_models: TinyModels) -> None:
    tiny = tiny_models.get("olmoe")
    trunk = Trunk.load(tiny.prepared, threads=2)
    seen: set[int] = set()
    pool = WatchedPool(LocalExperts(tiny.prepared), lambda *_: seen.add(torch.get_num_threads()))
    for tokens, wanted in ((FEW_ROWS, 1), (FEW_ROWS + 1, 2), (1, 1)):
        with ThreadPoolExecutor(1) as thread:  # the number is each thread's own
            thread.submit(packed_logits, trunk, pool, [random_tokens(tokens, 0)]).result()
        assert seen == {wanted}
        seen.clear()


def test_only_the_rows_asked_for_have_logits(tiny_models: TinyModels) -> None:
    tiny = tiny_models.get("granitemoe")
    trunk, pool = Trunk.load(tiny.prepared), LocalExperts(tiny.prepared)
    tokens = random_tokens(9, 0)
    (everything,) = packed_logits(trunk, pool, [tokens])
    attention = PlainAttention(trunk.spec.caches)
    attention.begin([(0, 9)])
    tally = StepTally()
    some = trunk.forward(tokens, torch.arange(9), attention, pool, tally, torch.tensor([8, 2]))
    assert some.shape == (2, trunk.spec.vocab)
    torch.testing.assert_close(some, everything[[8, 2]])
    assert tally.layers == len(trunk.spec.moe_layers)


@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek_v3", "gpt_oss", "llama4_text", "llama"])
def test_threads_share_a_trunk(family: str, tiny_models: TinyModels) -> None:
    tiny = tiny_models.get(family)
    trunk, pool = Trunk.load(tiny.prepared), LocalExperts(tiny.prepared)
    sequences = [random_tokens(length, seed) for seed, length in enumerate((33, 20, 47, 5))]
    alone = [packed_logits(trunk, pool, [sequence])[0] for sequence in sequences]
    with ThreadPoolExecutor(len(sequences)) as threads:
        for _ in range(3):
            together = list(threads.map(lambda tokens: packed_logits(trunk, pool, [tokens])[0], sequences))
            for one, other in zip(together, alone, strict=True):
                assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("family", "shared"),
    [
        ("qwen2_moe", "shared_expert"),
        ("deepseek_v2", "shared_experts"),
        ("deepseek_v3", "shared_experts"),
        ("glm4_moe", "shared_experts"),
        ("glm4_moe_lite", "shared_experts"),
        ("ernie4_5_moe", "shared_experts"),
        ("dots1", "shared_experts"),
        ("llama4_text", "shared_expert"),
    ],
)
def test_the_shared_expert_is_computed_while_the_pool_works(
    family: str, shared: str, tiny_models: TinyModels
) -> None:
    tiny = tiny_models.get(family)
    trunk = Trunk.load(tiny.prepared)
    happened: list[str] = []
    for module in trunk._layers:
        for name, child in module.named_modules():
            if name.endswith(f".{shared}"):
                child.register_forward_hook(lambda *_: happened.append("shared"))
    pool = WatchedPool(LocalExperts(tiny.prepared), lambda event, _: happened.append(event))
    packed_logits(trunk, pool, [random_tokens(4, 0)])
    assert happened == ["submit", "shared", "result"] * len(trunk.spec.moe_layers)


@pytest.mark.parametrize("family", ["deepseek_v2", "minimax_m2", "olmoe"])
def test_routing_reaches_the_pool_in_canonical_order(family: str, tiny_models: TinyModels) -> None:
    tiny = tiny_models.get(family)
    calls: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    def note(event: str, detail: object) -> None:
        if event == "submit":
            assert isinstance(detail, tuple)
            calls.append(detail)

    packed_logits(
        Trunk.load(tiny.prepared), WatchedPool(LocalExperts(tiny.prepared), note), [random_tokens(30, 0)]
    )
    assert calls
    for _, experts, gates in calls:
        assert experts.dtype == torch.int64
        assert gates.dtype == torch.float32
        assert bool((experts.diff(dim=-1) > 0).all())


def test_a_step_whose_experts_did_not_all_answer_is_an_error(tiny_models: TinyModels) -> None:
    tiny = tiny_models.get("mixtral")
    trunk = Trunk.load(tiny.prepared)
    with pytest.raises(IncompleteStepError, match="0 layers answered in a step, of 2"):
        packed_logits(trunk, ForgetfulPool(LocalExperts(tiny.prepared)), [random_tokens(3, 0)])


def test_an_unavailable_expert_reaches_the_caller_and_the_trunk_goes_on(tiny_models: TinyModels) -> None:
    tiny = tiny_models.get("mixtral")
    trunk = Trunk.load(tiny.prepared)
    with pytest.raises(UnavailableError):
        packed_logits(trunk, GonePool(), [random_tokens(3, 0)])
    packed_logits(trunk, LocalExperts(tiny.prepared), [random_tokens(3, 0)])


def test_modules_do_not_work_outside_a_step(tiny_models: TinyModels) -> None:
    trunk = Trunk.load(tiny_models.get("mixtral").prepared)
    with pytest.raises(RuntimeError, match=r"outside Trunk\.forward"):
        trunk._layers[0].mlp(torch.zeros(1, 1, 64))
