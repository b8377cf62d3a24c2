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
from typing import Any

from ...ids import NodeId
from ...models.pool import ExpertPool
from .answer import Answer
from .delivery import STREAMED, Delivery
from .faults import NotAuditedError, PromptTooLongError
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
from .trail import Trail
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
        answers_rewound: Answers of which some was computed anew because a node was convicted, or had not signed
            what a step used.
        answers_doubted: Answers that had ended when a node was convicted whose results were behind them.
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
    answers_rewound: int
    answers_doubted: int


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
        *,
        audits: bool = False,
        trusted: Callable[[NodeId], bool] = lambda node: True,
    ) -> None:
        """Reserves the memory for keys and values.

        Args:
            trunk: The model's trunk.
            pool: Where its experts are.
            tokenizer: transformers' tokenizer of the model.
            settings: The limits.
            covered: Whether every expert has a host now; asked from lanes' threads, must return at once.
            observer: Hears how long things take.
            audits: Whether the pool sees to audits of what it is told to have audited.
            trusted: Whether results of a node may be used that has answered; asked from lanes' threads, must return at once.

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
        self._audits = audits
        self._roster = Roster(Scheduler(settings, self._allocator), settings, covered, observer, trusted)
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

    def submit(
        self, prompt_ids: Sequence[int], sampling: SamplingParams, delivery: Delivery = STREAMED
    ) -> Generation:
        """Queues a prompt and returns at once.

        Raises:
            NotAuditedError: when the answer is to be audited, and nothing is.
            ParameterError: when the prompt is empty or holds a number that is no token.
            PromptTooLongError: when the prompt, or the prompt and `max_tokens`, can never fit.
            OverloadedError: when too many requests wait already.
            EngineClosedError: after `close`.
        """
        if delivery.audited and not self._audits:
            raise NotAuditedError(
                "this coordinator audits nothing, so no answer of it can be audited",
                param="folkmoot.verify",
                advice='leave it out, or ask for "signed"; an operator turns audits on with audit.enabled',
            )
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
        cancel = partial(self._roster.cancel, arrival)
        generation = Generation(uuid.uuid4().hex, len(prompt), cancel, delivery)
        trail = Trail(arrival, self._settings.unaudited_tokens) if delivery.audited else None
        sequence = TokenSequence(arrival, prompt, drafter=self._drafter(prompt, max_tokens), trail=trail)
        self._roster.add(Answer(sequence, writer, generation, monotonic()))
        return generation

    def rewind(self, node: NodeId) -> None:
        """A node was convicted: whatever of its results is not known to be right counts for nothing, and is computed anew.

        It must not be `trusted` any more when this is called.
        """
        self._roster.rewind(node)

    def consequences(self) -> dict[str, Any]:
        """What verdicts have meant for answers, as `/v1/network` tells it."""
        with self._roster.lock:
            return {
                "rewound": self._roster.answers_rewound,
                "doubted": self._roster.ended.doubted,
                "last_doubted": self._roster.ended.document(),
            }

    def stats(self) -> EngineStats:
        """What the engine does now."""
        with self._roster.lock:
            scheduler = self._roster.scheduler
            return EngineStats(
                running=len(scheduler.running) + len(scheduler.held),
                waiting=len(scheduler.waiting),
                pages_used=self._allocator.total - self._allocator.free,
                pages_total=self._allocator.total,
                tokens_generated=self._roster.tokens_generated,
                prompt_tokens=self._roster.prompt_tokens,
                preemptions=scheduler.preemptions,
                draft_tokens=self._roster.draft_tokens,
                draft_tokens_accepted=self._roster.draft_tokens_accepted,
                answers_rewound=self._roster.answers_rewound,
                answers_doubted=self._roster.ended.doubted,
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
