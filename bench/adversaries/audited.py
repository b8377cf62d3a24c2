"""Requests for audited answers, asked of a network in which a node cheats.

Guarantees: answers come from the real engine over the arena's own network, token by token and greedily; what they are compared with
is what the same engine answers with every expert in one process. Prompts follow from seeds, and are such that machines answer them
alike whose results differ by as much as the arithmetic profile lets honest ones: to others there is no one honest answer.

Letters: T tokens of a step, H hidden size.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from ...coordinator.audit.auditing import Auditing
from ...coordinator.dispatch.network_experts import NetworkExperts
from ...coordinator.engine.delivery import STREAMED, Delivery, Verification
from ...coordinator.engine.engine import Engine
from ...coordinator.engine.requests import SamplingParams
from ...coordinator.engine.settings import EngineSettings
from ...coordinator.hub.hub import Hub
from ...errors import ModelError
from ...models.local import LocalExperts
from ...models.pool import ExpertPool, StepTally
from ...models.prepared import PreparedModel
from ...models.trunk import Trunk
from ...trust.recompute import PROFILE_TOLERANCE
from ..random_olmoe import WORDLESS
from .model import SHAPE

REQUESTS: Final = 3
PROMPT_TOKENS: Final = 24
ANSWER_TOKENS: Final = 12
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


class AuditedRequests:
    """Of one arena."""

    def __init__(self, model: PreparedModel, pool: NetworkExperts, hub: Hub, auditing: Auditing) -> None:
        """Loads the trunk."""
        trunk, tokenizer = Trunk.load(model, threads=1), model.tokenizer()
        alone: list[ExpertPool] = [
            LocalExperts(model),
            *(NoisyExperts(model, seed) for seed in range(NOISES)),
        ]
        self._alone = [Engine(trunk, experts, tokenizer, _SETTINGS, lambda: True) for experts in alone]
        self._expected: dict[int, list[int]] = {}
        self._engine = Engine(
            trunk, pool, tokenizer, _SETTINGS, hub.covered, audits=True, trusted=auditing.trusts
        )
        auditing.tell_convictions(self._engine.rewind)

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

    async def equal(self) -> bool:
        """Whether audited answers are those of one machine, token for token."""
        audited = Delivery(Verification.AUDITED)
        answers = {number: await _answer(self._engine, _prompt(number), audited) for number in self._expected}
        return answers == self._expected


def _prompt(number: int) -> list[int]:
    generator = np.random.default_rng([number, 77])
    return [int(token) for token in generator.integers(WORDLESS, SHAPE.vocabulary, PROMPT_TOKENS)]


async def _answer(engine: Engine, prompt: list[int], delivery: Delivery = STREAMED) -> list[int]:
    sampling = SamplingParams(temperature=0, max_tokens=ANSWER_TOKENS, ignore_eos=True)
    generation = engine.submit(prompt, sampling, delivery)
    return [token async for delta in generation for token in delta.token_ids]
