"""Runs a trunk over whole sequences, packed into one step or decoded token by token, with attention in plain memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from folkmoot.models.pool import ExpertPool, StepTally
from folkmoot.models.trunk import Trunk
from folkmoot.tests.support.plain_attention import PlainAttention


def random_tokens(length: int, seed: int) -> torch.Tensor:
    """[length] tokens of a tiny model's vocabulary, none of them special."""
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed))


def packed_logits(trunk: Trunk, pool: ExpertPool, sequences: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The logits of all tokens of some sequences that share one step: [length, V] for each."""
    lengths = [len(sequence) for sequence in sequences]
    attention = PlainAttention(trunk.spec.caches)
    attention.begin(list(enumerate(lengths)))
    logits = trunk.forward(
        torch.cat(list(sequences)),
        torch.cat([torch.arange(length) for length in lengths]),
        attention,
        pool,
        StepTally(),
        torch.arange(sum(lengths)),
    )
    return list(torch.split(logits, lengths))


def greedy(trunk: Trunk, pool: ExpertPool, prompt: torch.Tensor, count: int) -> list[int]:
    """Up to `count` tokens, each the likeliest, with the past kept from step to step; ends after an end token."""
    attention = PlainAttention(trunk.spec.caches)
    answer: list[int] = []
    tokens, position = prompt, 0
    while len(answer) < count:
        attention.begin([(0, len(tokens))])
        positions = torch.arange(position, position + len(tokens))
        logits = trunk.forward(
            tokens, positions, attention, pool, StepTally(), torch.tensor([len(tokens) - 1])
        )
        position += len(tokens)
        answer.append(int(logits[0].argmax()))
        if answer[-1] in trunk.spec.eos_ids:
            break
        tokens = torch.tensor(answer[-1:])
    return answer
