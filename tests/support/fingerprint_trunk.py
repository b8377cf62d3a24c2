"""A trunk whose every token depends on exactly which tokens its row could see, through the engine's own paged attention.

Guarantees: a row's logits are a function of the codes of all tokens visible to it, layer by layer, and of nothing else, bit for
bit, however steps are packed: a key too many, too few, or of a token that was not kept changes what it says. What it says is
mostly the token after its last one in a short alphabet, so that its texts repeat themselves, with surprises.

A code is a few small whole numbers for a token at its position. Attention with scores of zero is their mean, and the mean times
their number is a whole number again.

Letters: T tokens of the step, S rows of logits, C codes of a token, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from folkmoot.errors import UnavailableError
from folkmoot.models.pool import ExpertPool, StepTally
from folkmoot.models.trunk_spec import CacheSpec, StepAttention, TrunkSpec

CODES = 4
VOCAB = 272
END = 257
ALPHABET = tuple(range(64, 69))
"""a b c d e, as the tiny models' tokenizer reads them."""
FULL = CacheSpec(kv_heads=1, key_dim=CODES, value_dim=CODES)
CACHES = (
    FULL,
    CacheSpec(kv_heads=1, key_dim=CODES, value_dim=CODES, window=7),
    CacheSpec(kv_heads=1, key_dim=CODES, value_dim=CODES, chunk=10),
)


class FingerprintTrunk:
    """A `StepTrunk`; the pool is not asked.

    Attributes:
        steps: Steps begun so far.
        lost_at: Numbers of the steps, counted from 1, that find no host for an expert.
        surprise: How often it leaves the alphabet's order: 0 for never, 1 for about half of the time.
        spoils: Whether a token at a position makes its own key no number.
    """

    def __init__(self, context_length: int = 96, surprise: float = 0.3) -> None:
        self.spec = TrunkSpec(
            layers=len(CACHES),
            caches=CACHES,
            moe_layers=(0,),
            vocab=VOCAB,
            context_length=context_length,
            eos_ids=frozenset([END]),
            dtype=torch.float32,
        )
        self.steps = 0
        self.lost_at: frozenset[int] = frozenset()
        self.surprise = surprise
        self.spoils: Callable[[int, int], bool] = lambda token, position: False
        self._lock = threading.Lock()

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        attention: StepAttention,
        pool: ExpertPool,
        tally: StepTally,
        logits_at: torch.Tensor,
    ) -> torch.Tensor:
        """[S, V], as `Trunk.forward`."""
        with self._lock:
            self.steps += 1
            number = self.steps
        tally.layers += 1
        seen = []
        codes = self._codes(input_ids, positions)  # [T, C]
        for layer, cache in enumerate(CACHES):
            rows = codes[None]
            mean = attention.attend(layer, torch.zeros_like(rows), rows, rows, 1.0, None)[:, 0]  # [T, C]
            seen.append(mean * _visible(cache, positions)[:, None])
            if number in self.lost_at:
                raise UnavailableError("layer 0 expert 3 has no host")
        fingerprints = torch.cat(seen, dim=-1)[logits_at]  # [S, layers x C]
        last = input_ids[logits_at].tolist()
        logits = torch.empty(len(last), VOCAB)
        for row, (token, fingerprint) in enumerate(zip(last, fingerprints, strict=True)):
            logits[row] = self._logits(token, fingerprint)
        return logits

    def _codes(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        places = torch.stack([input_ids * (prime + positions) % 61 for prime in (3, 7, 19, 41)], dim=-1)
        spoilt = [self.spoils(*each) for each in zip(input_ids.tolist(), positions.tolist(), strict=True)]
        return places.float().masked_fill(torch.tensor(spoilt)[:, None], float("nan"))

    def _logits(self, last: int, fingerprint: torch.Tensor) -> torch.Tensor:
        if not fingerprint.isfinite().all():
            return torch.full((VOCAB,), float("nan"))
        seed = hash(tuple(fingerprint.round().long().tolist())) % 2**62
        noise = torch.rand(len(ALPHABET) + 1, generator=torch.Generator().manual_seed(seed))
        logits = torch.full((VOCAB,), -30.0)
        logits[torch.tensor(ALPHABET)] = noise[:-1]
        logits[END] = 1.0 if noise[-1] > 0.98 else -5.0
        follower = ALPHABET[(ALPHABET.index(last) + 1) % len(ALPHABET)] if last in ALPHABET else ALPHABET[0]
        logits[follower] += 1.0 - self.surprise
        return 3 * logits


def _visible(cache: CacheSpec, positions: torch.Tensor) -> torch.Tensor:
    """How many tokens a row sees: [T]."""
    first = torch.zeros_like(positions)
    if cache.window is not None:
        first = (positions - cache.window + 1).clamp(min=0)
    if cache.chunk is not None:
        first = positions - positions % cache.chunk
    return positions - first + 1
