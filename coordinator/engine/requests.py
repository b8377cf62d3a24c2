"""What a request asks of the engine, and the pieces in which its answer comes.

Guarantees: a `SamplingParams` that exists can be honoured; every token of an answer is in exactly one `Delta`, in order;
the texts of an answer's deltas end to end are the answer, without any part of the stop string that ended it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ...errors import UsageError

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 1024
MAX_TOP_LOGPROBS = 20

FinishReason = Literal["stop", "length"]


class ParameterError(UsageError):
    """A request's parameter cannot be honoured.

    Args:
        param: The parameter at fault.
    """

    def __init__(self, message: str, *, param: str, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.param = param


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen, and when an answer ends.

    Filters apply in transformers' order: temperature, top-k, top-p (on what top-k left), min-p. Tokens that tie with the
    last one kept are kept.

    Attributes:
        temperature: Divides logits; 0 takes the most likely token.
        top_p: The most likely tokens whose probabilities first add up to this much are kept.
        top_k: So many most likely tokens are kept; 0 or -1 keeps all.
        min_p: Tokens at least this fraction as likely as the most likely one are kept.
        seed: Makes the choice repeatable, whatever runs beside it; None draws a seed.
        max_tokens: The answer ends with "length" after so many; None goes on to the end of the context.
        stop: The answer ends with "stop" before the first of these strings.
        logprobs: None for none; n for each token's own log-probability and the n most likely ones', of the unscaled logits.
        ignore_eos: Go on after a token that would end the answer.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ParameterError("temperature must be 0 or more", param="temperature")
        if not 0 < self.top_p <= 1:
            raise ParameterError("top_p must be above 0 and at most 1", param="top_p")
        if self.top_k < -1:
            raise ParameterError("top_k must be 1 or more, or 0 for no limit", param="top_k")
        if not 0 <= self.min_p <= 1:
            raise ParameterError("min_p must be between 0 and 1", param="min_p")
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise ParameterError("seed must fit into 64 bits", param="seed")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ParameterError("max_tokens must be 1 or more", param="max_tokens")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_TOP_LOGPROBS:
            raise ParameterError(f"logprobs must be between 0 and {MAX_TOP_LOGPROBS}", param="logprobs")
        self._check_stop()

    def _check_stop(self) -> None:
        if len(self.stop) > MAX_STOP_STRINGS:
            raise ParameterError(f"stop has more than {MAX_STOP_STRINGS} strings", param="stop")
        if any(not 0 < len(text) <= MAX_STOP_CHARACTERS for text in self.stop):
            raise ParameterError(
                f"each stop string must have between 1 and {MAX_STOP_CHARACTERS} characters", param="stop"
            )


@dataclass(frozen=True)
class TokenLogprob:
    """One token, how likely it was, and what else was likely.

    Attributes:
        token_id: The token.
        text: The token's own text; bytes that are no whole character read as U+FFFD.
        bytes: The token's own bytes.
        logprob: The natural logarithm of its probability.
        top: The most likely tokens at its place, most likely first; their own `top` is empty.
    """

    token_id: int
    text: str
    bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Delta:
    """What one step, or several, added to an answer.

    Attributes:
        text: New text that is final; empty while text is held back (half a character, the beginning of a stop string).
        token_ids: New tokens, a token that ended the answer included.
        logprobs: One for each of `token_ids` where they were asked for, else None.
        finish_reason: Why the answer ended, on its last delta only.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
