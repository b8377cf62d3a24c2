"""What an operator decides about an engine.

Guarantees: an `EngineSettings` that exists is consistent: each running sequence can decode in every step, and a step has
room for prompts besides.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError


class EngineSettingsError(UsageError):
    """A setting of the engine makes no sense."""


@dataclass(frozen=True)
class EngineSettings:
    """The engine's limits.

    Attributes:
        kv_memory_bytes: Memory for keys and values of all sequences together.
        page_tokens: Tokens whose keys and values lie side by side; memory is given to sequences in such pages.
        max_step_tokens: Tokens of one step, decoded and prompt tokens together.
        prefill_chunk_tokens: Prompt tokens that one sequence brings into one step.
        max_running: Sequences that hold pages at the same time.
        max_waiting: Requests that may wait for a place; more are turned away.
        lanes: Step loops that run side by side.
        max_draft_tokens: Guessed tokens of one sequence in one step; 0 for none. Each is a row more, with experts of its own.
        draft_step_tokens: Guesses fill a step up to so many tokens in all. A round trip costs the same for a few rows, and
            the native kernels read a weight once for up to 8 of them; in a fuller step a guess would take time from others.
        unaudited_tokens: Tokens of an audited answer, its prompt's included, that may be computed before audits of those before
            them have passed.
        unaudited_tokens_in_all: The same of all audited answers together; what is audited is kept in memory until then.
        not_covered_wait_s: How long a request waits for experts that have no host.
        retry_after_s: When a client that was turned away should come again.
    """

    kv_memory_bytes: int = 1 << 30
    page_tokens: int = 32
    max_step_tokens: int = 512
    prefill_chunk_tokens: int = 256
    max_running: int = 64
    max_waiting: int = 256
    lanes: int = 1
    max_draft_tokens: int = 4
    draft_step_tokens: int = 6
    unaudited_tokens: int = 32
    unaudited_tokens_in_all: int = 256
    not_covered_wait_s: float = 20.0
    retry_after_s: float = 5.0

    def __post_init__(self) -> None:
        for name in (
            "kv_memory_bytes",
            "page_tokens",
            "max_step_tokens",
            "prefill_chunk_tokens",
            "max_running",
            "max_waiting",
            "lanes",
            "draft_step_tokens",
            "unaudited_tokens",
            "unaudited_tokens_in_all",
        ):
            if getattr(self, name) < 1:
                raise EngineSettingsError(
                    f"{name} is {getattr(self, name)}", advice=f"set {name} to 1 or more"
                )
        if self.max_draft_tokens < 0:
            raise EngineSettingsError(
                f"max_draft_tokens is {self.max_draft_tokens}",
                advice="set max_draft_tokens to 0 for no guesses, or more",
            )
        if not 0 <= self.not_covered_wait_s < float("inf"):
            raise EngineSettingsError(
                f"not_covered_wait_s is {self.not_covered_wait_s}", advice="set it to a number of seconds"
            )
        if not 0 < self.retry_after_s < float("inf"):
            raise EngineSettingsError(
                f"retry_after_s is {self.retry_after_s}", advice="set it to a number of seconds above 0"
            )
        if self.max_step_tokens <= self.max_running:
            raise EngineSettingsError(
                f"a step of {self.max_step_tokens} tokens has no room for prompts beside {self.max_running} running sequences",
                advice="raise max_step_tokens or lower max_running",
            )
