"""One answer on its way from a lane's thread to whoever reads it.

Guarantees: deltas arrive in the order they were made; after the last one, or after a failure, nothing more arrives; a
reader that goes away cancels the answer; nothing that a reader does holds up a lane. A delta that its reader has not taken can be
recalled; one that waits for audits, or for the end of an answer that is wanted whole, cannot be taken.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator

from ...errors import FolkmootError
from ...models.pool import StepTally
from .delivery import STREAMED, Delivery
from .requests import Delta


class Generation:
    """An answer, delta by delta; it has one reader, in an event loop (`async for`) or a thread (`stream`, `wait`).

    Attributes:
        audits_passed: Results of the answer's steps that were audited for its sake and found right.
        rewound: Whether some of the answer was computed anew because a node was convicted, or had not signed
            what a step used.
        suspect_tokens: Ranges of its tokens, first and end, that a convicted node had a part in and that could not be recalled.
    """

    def __init__(
        self,
        generation_id: str,
        prompt_tokens: int,
        on_cancel: Callable[[], None],
        delivery: Delivery = STREAMED,
    ) -> None:
        """Made by the engine.

        Args:
            generation_id: Unique within the process.
            prompt_tokens: Length of the prompt.
            on_cancel: Called at most once, by whichever thread cancels, and never after the answer ended.
            delivery: When deltas may be taken.
        """
        self.id = generation_id
        self.prompt_tokens = prompt_tokens
        self.delivery = delivery
        self.audits_passed = 0
        self.rewound = False
        self.suspect_tokens: list[tuple[int, int]] = []
        self._on_cancel = on_cancel
        self._changed = threading.Condition()
        self._holds = delivery.audited or delivery.whole
        self._held: deque[Delta] = deque()
        self._released = 0
        self._deltas: deque[Delta] = deque()
        self._ended = False
        self._error: FolkmootError | None = None
        self._completion_tokens = 0
        self._tally = StepTally()
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answer so far, one that ended it included."""
        return self._completion_tokens

    @property
    def ended(self) -> bool:
        """Whether the answer is complete, failed, or cancelled; deltas may still be there to read."""
        return self._ended

    @property
    def tally(self) -> StepTally:
        """A copy of the accounting of all steps that the answer took part in so far."""
        with self._changed:
            tally = self._tally
            return StepTally(
                set(tally.nodes),
                tally.layers,
                tally.results_verified,
                tally.results_rejected,
                tally.retries,
                tally.results_own,
            )

    def cancel(self) -> None:
        """Gives the answer up: reading ends, and its memory is free again at the latest after the running step."""
        if self._end(None):
            self._on_cancel()

    @property
    def failed(self) -> bool:
        """Whether it ended with an error."""
        return self._error is not None

    def push(self, delta: Delta) -> None:
        """Adds a delta, and ends the answer with the one that has a finish reason, unless that is to wait. For the engine."""
        with self._changed:
            if self._ended:
                return
            self._completion_tokens += len(delta.token_ids)
            if self._holds:
                self._held.append(delta)
                if self.delivery.audited or delta.finish_reason is None:
                    return
                self._deltas, self._held = self._held, self._deltas
            else:
                self._deltas.append(delta)
            self._ended = delta.finish_reason is not None
        self._wake()

    def release(self, tokens: int) -> list[Delta]:
        """The first so many tokens of an audited answer may be taken; returns the deltas that wait no more. For the engine."""
        released: list[Delta] = []
        with self._changed:
            if self._ended:
                return released
            while self._held and self._released < tokens:
                delta = self._held.popleft()
                self._released += len(delta.token_ids)
                released.append(delta)
            self._deltas += released
            self._ended = bool(released) and released[-1].finish_reason is not None
        if released:
            self._wake()
        return released

    def rewind(self, tokens: int) -> int:
        """Recalls what follows the first so many tokens, as far as nobody has taken it; returns how many are left. For the engine."""
        with self._changed:
            self.rewound = True
            while self._completion_tokens > tokens and (recalled := self._held or self._deltas):
                self._completion_tokens -= len(recalled.pop().token_ids)
            if self._completion_tokens > tokens:
                self.suspect_tokens.append((tokens, self._completion_tokens))
            return self._completion_tokens

    def fail(self, error: FolkmootError) -> None:
        """Ends the answer with an error, unless it has ended. For the engine."""
        self._end(error)

    def account(self, tally: StepTally) -> None:
        """Adds a step's accounting. For the engine."""
        with self._changed:
            if not tally.spoilt:
                self._tally.nodes |= tally.nodes
            self._tally.layers += tally.layers
            self._tally.results_verified += tally.results_verified
            self._tally.results_own += tally.results_own
            self._tally.results_rejected += tally.results_rejected
            self._tally.retries += tally.retries

    async def __aiter__(self) -> AsyncGenerator[Delta]:
        """The deltas as they come; leaving the iteration before its end cancels the answer.

        Raises:
            FolkmootError: when the answer failed.
        """
        loop = asyncio.get_running_loop()
        try:
            while True:
                waiter: asyncio.Future[None] | None = None
                with self._changed:
                    delta = self._next()
                    if delta is None:
                        if self._ended:
                            return
                        waiter = loop.create_future()
                        self._waiter = (loop, waiter)
                if waiter is not None:
                    await waiter
                elif delta is not None:
                    yield delta
        finally:
            self.cancel()

    def stream(self, timeout_s: float | None = None) -> Iterator[Delta]:
        """The deltas as they come, for a thread; leaving the iteration before its end cancels the answer.

        Args:
            timeout_s: How long to wait for one delta.

        Raises:
            FolkmootError: when the answer failed.
            TimeoutError: when a delta took longer.
        """
        try:
            while True:
                with self._changed:
                    if not self._changed.wait_for(lambda: self._deltas or self._ended, timeout_s):
                        raise TimeoutError(f"no token within {timeout_s} s")
                    delta = self._next()
                if delta is None:
                    return
                yield delta
        finally:
            self.cancel()

    def wait(self, timeout_s: float | None = None) -> Delta:
        """The whole answer as one delta; its finish reason is None when it was cancelled.

        Raises:
            FolkmootError: when the answer failed.
            TimeoutError: when one token took longer than `timeout_s`.
        """
        deltas = list(self.stream(timeout_s))
        logprobs = [entry for delta in deltas for entry in delta.logprobs or ()]
        return Delta(
            text="".join(delta.text for delta in deltas),
            token_ids=tuple(token for delta in deltas for token in delta.token_ids),
            logprobs=tuple(logprobs) if any(delta.logprobs is not None for delta in deltas) else None,
            finish_reason=deltas[-1].finish_reason if deltas else None,
        )

    def _next(self) -> Delta | None:
        """The next delta if there is one; called with the lock held. Raises what the answer failed with."""
        if self._deltas:
            return self._deltas.popleft()
        if self._error is not None:
            raise self._error
        return None

    def _end(self, error: FolkmootError | None) -> bool:
        with self._changed:
            if self._ended:
                return False
            self._ended, self._error = True, error
        self._wake()
        return True

    def _wake(self) -> None:
        with self._changed:
            waiter, self._waiter = self._waiter, None
            self._changed.notify_all()
        if waiter is None:
            return
        loop, future = waiter
        try:
            loop.call_soon_threadsafe(_resolve, future)
        except RuntimeError:  # the reader's loop is closed: nobody is left to read
            self.cancel()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
