"""Requests for audited answers, asked of a network in which a node cheats, another vanishes, and slow frames go to two.

Guarantees: answers come from the real engine over the arena's own network, token by token and greedily, several at once, and beside
others that are not audited; what they are compared with is what the same engine answers with every expert in one process. Prompts
follow from seeds, and are such that machines answer them alike whose results differ by as much as the arithmetic profile lets honest
ones: to others there is no one honest answer. An adversary is let in again, under another key, until it had a part in what was
asked.

Letters: T tokens of a step, H hidden size.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from ...coordinator.audit.settings import AuditSettings
from ...coordinator.dispatch.network_experts import DispatchSettings
from ...coordinator.engine.delivery import STREAMED, Delivery, Verification
from ...coordinator.engine.engine import Engine
from ...coordinator.engine.requests import SamplingParams
from ...coordinator.engine.settings import EngineSettings
from ...errors import ModelError
from ...models.local import LocalExperts
from ...models.pool import ExpertPool, StepTally
from ...models.prepared import PreparedModel
from ...models.trunk import Trunk
from ...trust.recompute import PROFILE_TOLERANCE
from ..random_olmoe import WORDLESS
from .arena import POLL_S, Arena, ArenaSettings
from .executors import WhenUnwatched
from .kinds import Adversary, Fate
from .model import SHAPE
from .nodes import AdversaryNode, PasserBy

REQUESTS: Final = 6
BESIDE: Final = 2
"""Answers that nobody asked to be audited, at the same time."""
PROMPT_TOKENS: Final = 24
ANSWER_TOKENS: Final = 16
MOST_TIMES: Final = 6
"""How often an adversary is let in until it had a part."""
WARMING, MOST_WARMING = 8, 200
VANISHES_AFTER: Final = 8
"""Results of the honest node that vanishes."""
AUDITED_ARENA: Final = ArenaSettings(
    audits=AuditSettings(),
    dispatch=DispatchSettings(hedge_share=0.1, hedge_quantile=0.9, hedge_least_s=0.005),
    honest_is_busy=False,
    replicas=3,
)
"""Much is sent to two, so that it happens at all on one machine, where hardly a frame is slow."""
NOISES: Final = 4
"""Noisy machines that must agree on a prompt's answer."""
MOST_TRIED: Final = 200
"""Prompts among which enough are to be found."""
_SETTINGS: Final = EngineSettings(kv_memory_bytes=32 << 20, max_draft_tokens=0)


class NoAgreementError(ModelError):
    """Honest machines agree on too few answers of a model."""


class NoisyExperts:
    """A pool in one process, each of whose rows is off by as much as an honest one may be, each another way."""

    def __init__(self, model: PreparedModel, seed: int) -> None:
        self._experts = LocalExperts(model)
        self._generator = torch.Generator().manual_seed(seed)

    def submit(
        self,
        layer: int,
        hidden: torch.Tensor,
        expert_ids: torch.Tensor,
        gates: torch.Tensor,
        tally: StepTally,
    ) -> NoisyExperts._Answer:
        """Starts one layer's expert call; see `ExpertPool.submit`."""
        answer = self._experts.submit(layer, hidden, expert_ids, gates, tally).result()  # [T, H]
        noise = torch.randn(answer.shape, generator=self._generator)
        noise *= PROFILE_TOLERANCE * answer.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
        return self._Answer(answer + noise)

    class _Answer:
        def __init__(self, answer: torch.Tensor) -> None:
            self._answer = answer

        def result(self) -> torch.Tensor:
            """[T, H] float32."""
            return self._answer


@dataclass(frozen=True)
class Asked:
    """What came of asking for audited answers while an adversary served.

    Attributes:
        equal: Whether they were the honest ones, all of them.
        answers: How many were asked for.
        part: Results of the adversary that they waited for and that were wrong; where its results are rejected, how many were;
            where they are right, how many they waited for.
        hedges: Frames that were sent to a second node.
        vanished: Nodes that were gone in the middle of it.
    """

    equal: bool
    answers: int
    part: int
    hedges: int
    vanished: int


class AuditedRequests:
    """Of one arena; see `asking`."""

    def __init__(self, arena: Arena) -> None:
        """Loads the trunk."""
        model = arena.model
        trunk, tokenizer = Trunk.load(model, threads=1), model.tokenizer()
        alone: list[ExpertPool] = [
            LocalExperts(model),
            *(NoisyExperts(model, seed) for seed in range(NOISES)),
        ]
        self._arena = arena
        self._alone = [Engine(trunk, experts, tokenizer, _SETTINGS, lambda: True) for experts in alone]
        self._expected: dict[int, list[int]] = {}
        self._asking = False
        self._engine = Engine(
            trunk,
            arena.pool,
            tokenizer,
            _SETTINGS,
            arena.hub.covered,
            audits=True,
            trusted=arena.auditing.trusts,
        )
        arena.auditing.tell_convictions(self._engine.rewind)

    async def start(self) -> None:
        """Finds prompts to which there is one honest answer, and begins to answer over the network.

        Raises:
            NoAgreementError: when there are too few.
        """
        for engine in self._alone:
            engine.start()
        for number in range(MOST_TRIED):
            answers = [await _answer(engine, _prompt(number)) for engine in self._alone]
            if all(answer == answers[0] for answer in answers):
                self._expected[number] = answers[0]
            if len(self._expected) == REQUESTS:
                break
        else:
            raise NoAgreementError("honest machines agree on too few answers of this model")
        for engine in self._alone:
            engine.close()
        self._engine.start()

    def close(self) -> None:
        """Ends what runs. Blocks."""
        for engine in (*self._alone, self._engine):
            engine.close()

    async def ask(self, adversary: Adversary, *, vanishing: bool) -> Asked:
        """Asks while an adversary serves, until it had a part; beside a node that vanishes, if wanted, the first time."""
        all_asked: list[Asked] = []
        while len(all_asked) < MOST_TIMES and not any(asked.part for asked in all_asked):
            all_asked.append(await self._ask(adversary, vanishing=vanishing and not all_asked))
        return Asked(
            all(asked.equal for asked in all_asked),
            sum(asked.answers for asked in all_asked),
            sum(asked.part for asked in all_asked),
            sum(asked.hedges for asked in all_asked),
            sum(asked.vanished for asked in all_asked),
        )

    async def _ask(self, adversary: Adversary, *, vanishing: bool) -> Asked:
        arena = self._arena
        passer_by = PasserBy(arena.node_settings("passer_by", trusted=True)) if vanishing else None
        settings = arena.node_settings(adversary.name.lower(), trusted=True)
        node = AdversaryNode(settings, adversary=adversary)
        try:
            for one in (passer_by, node):
                if one is not None:
                    await one.start()
                    await arena.ready(one)
            await self._warm_up(node)
            before, seen = arena.dispatched.totals(), arena.seen[node.node_id]
            gone = 0
            if passer_by is None:
                equal = await self._equal()
            else:
                equal, gone = await asyncio.gather(self._equal(), self._vanish(passer_by))
            after = arena.dispatched.totals()
            part = arena.cheated[node.node_id]
            if adversary.fate is Fate.REJECTED:
                failed = sum(after.failed.values()) - sum(before.failed.values())
                part = after.results_rejected - before.results_rejected + failed
            elif adversary.fate is Fate.STRIKES:
                part = arena.seen[node.node_id] - seen
            return Asked(equal, REQUESTS, part, after.hedges - before.hedges, gone)
        finally:
            await node.stop()
            if passer_by is not None:
                await passer_by.stop()

    async def _warm_up(self, node: AdversaryNode) -> None:
        """One that cheats only while nobody looks is asked what nobody looks at."""
        key = min(self._arena.model.manifest.experts)
        for number in range(MOST_WARMING):
            if not isinstance(node.executor, WhenUnwatched) or node.executor.unseen:
                break
            # Several at once, so that none of the nodes is passed over.
            rows = (self._arena.oracle.rows(1, WARMING * number + one) for one in range(WARMING))
            await asyncio.gather(*(self._arena.call_one(key, row) for row in rows))

    async def _vanish(self, passer_by: PasserBy) -> int:
        """Whether it was gone while answers were not all there, as a number."""
        first = self._arena.seen[passer_by.node_id]
        while self._arena.seen[passer_by.node_id] < first + VANISHES_AFTER:
            if not self._asking:
                return 0
            await asyncio.sleep(POLL_S)
        await passer_by.vanish()
        return 1

    async def _equal(self) -> bool:
        """Whether audited answers are those of one machine, token for token."""
        audited, numbers = Delivery(Verification.AUDITED), list(self._expected)
        self._asking = True
        try:
            answers, _ = await asyncio.gather(
                asyncio.gather(*(_answer(self._engine, _prompt(number), audited) for number in numbers)),
                asyncio.gather(*(_answer(self._engine, _prompt(MOST_TRIED + one)) for one in range(BESIDE))),
            )
        finally:
            self._asking = False
        return dict(zip(numbers, answers, strict=True)) == self._expected


@asynccontextmanager
async def asking(arena: Arena) -> AsyncIterator[AuditedRequests]:
    """Asks of an arena, until the context is left."""
    requests = AuditedRequests(arena)
    try:
        await requests.start()
        yield requests
    finally:
        await asyncio.to_thread(requests.close)


def _prompt(number: int) -> list[int]:
    generator = np.random.default_rng([number, 77])
    return [int(token) for token in generator.integers(WORDLESS, SHAPE.vocabulary, PROMPT_TOKENS)]


async def _answer(engine: Engine, prompt: list[int], delivery: Delivery = STREAMED) -> list[int]:
    sampling = SamplingParams(temperature=0, max_tokens=ANSWER_TOKENS, ignore_eos=True)
    generation = engine.submit(prompt, sampling, delivery)
    return [token async for delta in generation for token in delta.token_ids]
