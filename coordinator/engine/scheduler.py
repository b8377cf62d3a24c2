"""Which sequences take part in the next step, and with how many tokens.

Guarantees, whatever comes:
- sequences are admitted in the order of their arrival, and one that does not fit yet is not overtaken;
- every ready sequence that decodes is in the next step of its lane; prompts share the rest of the step in turns, so a long
  prompt holds up neither decoding nor other prompts;
- when pages run out, the youngest sequence gives back its own and waits again; the oldest is never held up, so all that
  fit alone come to their end;
- a sequence is in at most one step at a time.
Pure decisions: no tensors, no threads, no clock. The caller serialises calls.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass

from .pages import PageAllocator
from .sequence import Sequence, State
from .settings import EngineSettings


@dataclass(frozen=True)
class Chunk:
    """The tokens `start` ... `end - 1` of one sequence.

    Attributes:
        samples: Whether they end with the sequence's last token, so that the next one is sampled after them.
    """

    sequence: Sequence
    start: int
    end: int
    samples: bool


@dataclass(frozen=True)
class StepPlan:
    """One step: its number, its chunks, decoding sequences first, and pages to be cleared before it runs."""

    number: int
    chunks: tuple[Chunk, ...]
    fresh_pages: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Packed tokens of the step."""
        return sum(chunk.end - chunk.start for chunk in self.chunks)


class Scheduler:
    """Holds the waiting and the running sequences, both in order of arrival."""

    def __init__(self, settings: EngineSettings, allocator: PageAllocator) -> None:
        self._settings = settings
        self._allocator = allocator
        self._steps = 0
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Takes a new sequence; it must fit into all pages together."""
        insort(self.waiting, sequence, key=_arrival)

    def plan(self, *, admit: bool) -> StepPlan | None:
        """Chooses the next step of a lane, and marks its sequences as stepping; None when there is nothing to do.

        Args:
            admit: Whether waiting sequences may start.
        """
        for sequence in list(self.running):
            if sequence.state is State.READY:
                self._grow(sequence)
        if admit:
            self._admit()
        chunks = self._pick()
        if not chunks:
            return None
        self._steps += 1
        fresh: list[int] = []
        for chunk in chunks:
            sequence = chunk.sequence
            sequence.state, sequence.served = State.STEPPING, self._steps
            fresh += sequence.fresh
            sequence.fresh = []
        return StepPlan(self._steps, tuple(chunks), tuple(fresh))

    def complete(self, plan: StepPlan) -> None:
        """A step has run: its tokens are cached, and its sequences are ready again."""
        for chunk in plan.chunks:
            chunk.sequence.cached = chunk.end
            chunk.sequence.state = State.READY

    def holds(self, plan: StepPlan, sequence: Sequence) -> bool:
        """Whether a sequence is still in this very step."""
        return sequence.state is State.STEPPING and sequence.served == plan.number

    def withdraw(self, sequences: Iterable[Sequence]) -> None:
        """Running sequences give back their pages, and wait to be computed again."""
        for sequence in sequences:
            self.running.remove(sequence)
            self._release(sequence)
            sequence.state = State.WAITING
            insort(self.waiting, sequence, key=_arrival)

    def end(self, sequence: Sequence) -> None:
        """A sequence leaves for good; it must not be stepping, unless its step is over."""
        if sequence.state is State.ENDED:
            return
        (self.waiting if sequence.state is State.WAITING else self.running).remove(sequence)
        self._release(sequence)
        sequence.state = State.ENDED

    def _release(self, sequence: Sequence) -> None:
        self._allocator.give_back(sequence.pages)
        sequence.pages, sequence.fresh, sequence.cached = [], [], 0

    def _grow(self, sequence: Sequence) -> bool:
        """Gives a ready sequence the pages for all of its tokens; the youngest pay when none are free."""
        missing = self._missing_pages(sequence)
        while missing > self._allocator.free:
            younger = [other for other in self.running if other.arrival > sequence.arrival]
            victims = [other for other in younger if other.state is State.READY]
            if not victims and younger:
                return False  # a lane is stepping them: they can pay once their step is over
            self.preemptions += 1
            self.withdraw([victims[-1] if victims else sequence])
            if not victims:
                return False
        self._take(sequence, missing)
        return True

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._settings.max_running:
            sequence = self.waiting[0]
            missing = self._missing_pages(sequence)
            # One page to spare for each running sequence: else the newcomer would soon be sent back.
            if missing + len(self.running) > self._allocator.free:
                return
            del self.waiting[0]
            insort(self.running, sequence, key=_arrival)
            sequence.state = State.READY
            self._take(sequence, missing)

    def _pick(self) -> list[Chunk]:
        """This lane's share of the ready sequences, those served longest ago; of these, decoding ones first."""
        ready = [
            sequence
            for sequence in self.running
            if sequence.state is State.READY and not self._missing_pages(sequence)
        ]
        ready.sort(key=lambda sequence: (sequence.served, sequence.arrival))
        share = -(-len(self.running) // self._settings.lanes)
        budget = self._settings.max_step_tokens
        chunks: list[Chunk] = []
        for sequence in sorted(ready[:share], key=lambda sequence: sequence.remaining > 1):
            length = min(sequence.remaining, self._settings.prefill_chunk_tokens, budget)
            if not length:
                break
            end = sequence.cached + length
            chunks.append(Chunk(sequence, sequence.cached, end, samples=end == len(sequence.tokens)))
            budget -= length
        return chunks

    def _missing_pages(self, sequence: Sequence) -> int:
        return -(-len(sequence.tokens) // self._settings.page_tokens) - len(sequence.pages)

    def _take(self, sequence: Sequence, count: int) -> None:
        if count <= 0:
            return
        pages = self._allocator.take(count, sequence.pages[-1] if sequence.pages else None)
        if pages is None:
            raise ValueError(f"sequence {sequence.arrival} was promised {count} pages that are not free")
        sequence.pages += pages
        sequence.fresh += pages


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival
