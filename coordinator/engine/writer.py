"""From chosen tokens to the deltas of one answer.

Guarantees: every token is in exactly one delta; the answer ends with the token that ends it: an end token ("stop"), a stop
string ("stop"), or the last one allowed ("length"), in this order when several are true. After `rewind` it goes on as if the
tokens after those that are left had never been.
"""

from __future__ import annotations

from collections.abc import Sequence

from .detokenizer import Detokenizer
from .requests import Delta, FinishReason, SamplingParams, TokenLogprob
from .sampling import Choice, Draw
from .stop_strings import StopStrings
from .tokens import TextTokenizer, TokenSpelling


class Writer:
    """Writes one answer; one lane at a time calls it."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        spelling: TokenSpelling,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        seed: int,
        max_tokens: int,
        eos_ids: frozenset[int],
    ) -> None:
        self._spelling = spelling
        self._sampling = sampling
        self._seed = seed
        self._max_tokens = max_tokens
        self._end_tokens = frozenset() if sampling.ignore_eos else eos_ids
        self._detokenizer = Detokenizer(tokenizer, prompt_ids)
        self._stops = StopStrings(sampling.stop)
        self._written = 0
        self._unread: Sequence[int] = ()

    def rewind(self, tokens: Sequence[int]) -> None:
        """The answer has only these tokens again; what was held back of their text is held back again."""
        self._written = len(tokens)
        self._unread = tuple(tokens)
        self._detokenizer.restart()
        self._stops = StopStrings(self._sampling.stop)

    def draws(self, count: int) -> list[Draw]:
        """How each of the next `count` tokens is to be chosen."""
        return [Draw(self._sampling, self._seed, self._written + ahead) for ahead in range(count)]

    def write(self, choice: Choice) -> Delta:
        """Takes the next token of the answer."""
        self._read_again()
        self._written += 1
        ends = choice.token_id in self._end_tokens
        text = "" if ends else self._stops.add(self._detokenizer.add(choice.token_id))
        finish_reason: FinishReason | None = None
        if ends or self._written == self._max_tokens:
            text += self._stops.add(self._detokenizer.flush())
            finish_reason = "stop" if ends else "length"
        if self._stops.stopped:
            finish_reason = "stop"
        if finish_reason is not None:
            text += self._stops.flush()
        return Delta(text, (choice.token_id,), self._logprobs(choice), finish_reason)

    def _read_again(self) -> None:
        """Reads the tokens that a rewind has left: only now, for the rewind itself must be quick."""
        for token in self._unread:
            self._stops.add(self._detokenizer.add(token))
        self._unread = ()

    def _logprobs(self, choice: Choice) -> tuple[TokenLogprob, ...] | None:
        if choice.logprob is None:
            return None
        top = tuple(self._logprob(token, logprob) for token, logprob in choice.top)
        return (self._logprob(choice.token_id, choice.logprob, top),)

    def _logprob(self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        text, data = self._spelling.spell(token)
        return TokenLogprob(token, text, data, logprob, top)
