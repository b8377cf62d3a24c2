"""The engine: prompts in, answers out, many at a time.

Guarantees: an answer does not depend on what runs beside it; a prompt that can never fit is refused at once; whatever
fails, the engine goes on serving; after `close` no thread of its is left and every generation has ended.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic

from ...models.pool import ExpertPool
from .answer import Answer
from .faults import PromptTooLongError
from .generation import Generation
from .kv_memory import KvMemory
from .lane import Lane, StepTrunk
from .observer import EngineObserver, SilentObserver
from .pages import PageAllocator
from .requests import ParameterError, SamplingParams
from .roster import Roster
from .scheduler import Scheduler
from .sequence import Sequence as TokenSequence
from .settings import EngineSettings
from .speculation.drafter import Drafter
from .tokens import TextTokenizer, TokenSpelling
from .writer import Writer


@dataclass(frozen=True)
class EngineStats:
    """The engine at one moment.

    Attributes:
        running: Requests that hold pages.
        waiting: Requests that wait, for the first time or again.
        pages_used: Pages of keys and values that are owned.
        pages_total: Pages that there are.
        tokens_generated: Tokens of all answers since the start.
        prompt_tokens: Tokens of all prompts since the start.
        preemptions: How often a sequence gave its pages to an older one.
        draft_tokens: Guessed tokens that steps tried since the start.
        draft_tokens_accepted: Those that were kept, each of them a token without a step of its own.
    """

    running: int
    waiting: int
    pages_used: int
    pages_total: int
    tokens_generated: int
    prompt_tokens: int
    preemptions: int
    draft_tokens: int
    draft_tokens_accepted: int


class Engine:
    """Serves one trunk and one pool; all methods may be called from any thread."""

    def __init__(
        self,
        trunk: StepTrunk,
        pool: ExpertPool,
        tokenizer: TextTokenizer,
        settings: EngineSettings,
        covered: Callable[[], bool],
        observer: EngineObserver | None = None,
    ) -> None:
        """Reserves the memory for keys and values.

        Args:
            trunk: The model's trunk.
            pool: Where its experts are.
            tokenizer: transformers' tokenizer of the model.
            settings: The limits.
            covered: Whether every expert has a host now; asked from lanes' threads, must return at once.
            observer: Hears how long things take.

        Raises:
            EngineSettingsError: when the memory holds not even one page.
        """
        self._spec = trunk.spec
        self._tokenizer = tokenizer
        self._spelling = TokenSpelling(tokenizer)
        self._settings = settings
        self._arrivals = itertools.count()
        observer = observer or SilentObserver()
        memory = KvMemory(trunk.spec, settings)
        self._allocator = PageAllocator(memory.pages)
        self._roster = Roster(Scheduler(settings, self._allocator), settings, covered, observer)
        self._threads = [
            threading.Thread(
                target=Lane(trunk, pool, memory, self._roster, observer).run,
                name=f"lane-{number}",
                daemon=True,
            )
            for number in range(settings.lanes)
        ]

    def start(self) -> None:
        """Starts the lanes; what was submitted before is served now."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends every generation with `EngineClosedError`, and waits for the running steps; again does nothing."""
        self._roster.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._roster.clear()

    def submit(self, prompt_ids: Sequence[int], sampling: SamplingParams) -> Generation:
        """Queues a prompt and returns at once.

        Raises:
            ParameterError: when the prompt is empty or holds a number that is no token.
            PromptTooLongError: when the prompt, or the prompt and `max_tokens`, can never fit.
            OverloadedError: when too many requests wait already.
            EngineClosedError: after `close`.
        """
        prompt = list(prompt_ids)
        self._check_tokens(prompt)
        room = self._room(prompt, sampling)
        arrival = next(self._arrivals)
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        max_tokens = room if sampling.max_tokens is None else sampling.max_tokens
        writer = Writer(
            self._tokenizer,
            self._spelling,
            prompt,
            sampling,
            seed=seed,
            max_tokens=max_tokens,
            eos_ids=self._spec.eos_ids,
        )
        generation = Generation(uuid.uuid4().hex, len(prompt), partial(self._roster.cancel, arrival))
        sequence = TokenSequence(arrival, prompt, drafter=self._drafter(prompt, max_tokens))
        self._roster.add(Answer(sequence, writer, generation, monotonic()))
        return generation

    def stats(self) -> EngineStats:
        """What the engine does now."""
        with self._roster.lock:
            scheduler = self._roster.scheduler
            return EngineStats(
                running=len(scheduler.running),
                waiting=len(scheduler.waiting),
                pages_used=self._allocator.total - self._allocator.free,
                pages_total=self._allocator.total,
                tokens_generated=self._roster.tokens_generated,
                prompt_tokens=self._roster.prompt_tokens,
                preemptions=scheduler.preemptions,
                draft_tokens=self._roster.draft_tokens,
                draft_tokens_accepted=self._roster.draft_tokens_accepted,
            )

    def _drafter(self, tokens: list[int], max_tokens: int) -> Drafter | None:
        most = self._settings.max_draft_tokens
        return Drafter(tokens, longest=len(tokens) + max_tokens, most=most) if most else None

    def _check_tokens(self, prompt: list[int]) -> None:
        if not prompt:
            raise ParameterError("the prompt has no tokens", param="prompt")
        wrong = next((token for token in prompt if not 0 <= token < self._spec.vocab), None)
        if wrong is not None:
            raise ParameterError(f"the prompt holds {wrong}, which is no token of the model", param="prompt")

    def _room(self, prompt: list[int], sampling: SamplingParams) -> int:
        """How many tokens the answer may have at most."""
        memory = self._allocator.total * self._settings.page_tokens
        longest = min(self._spec.context_length, memory)
        kind = (
            "the model's context"
            if longest == self._spec.context_length
            else "the memory for keys and values"
        )
        room = longest - len(prompt)
        if room < 1:
            raise PromptTooLongError(
                f"the prompt has {len(prompt)} tokens; {kind} holds {longest}, answer included",
                param="prompt",
                advice="shorten the prompt",
            )
        if sampling.max_tokens is not None and sampling.max_tokens > room:
            raise PromptTooLongError(
                f"a prompt of {len(prompt)} tokens and {sampling.max_tokens} more are over the {longest} that {kind} holds",
                param="max_tokens",
                advice=f"ask for at most {room} tokens, or shorten the prompt",
            )
        return room
