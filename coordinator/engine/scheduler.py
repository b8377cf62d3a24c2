"""Which sequences take part in the next step, and with how many tokens.

Guarantees, whatever comes:
- sequences are admitted in the order of their arrival, and one that does not fit yet is not overtaken;
- every ready sequence that decodes is in the next step of its lane; prompts share the rest of the step in turns, so a long
  prompt holds up neither decoding nor other prompts;
- when pages run out, the youngest sequence gives back its own and waits again; the oldest is never held up, so all that
  fit alone come to their end;
- a sequence is in at most one step at a time;
- an audited sequence is never further ahead of its audits than its trail allows, nor are all of them together than the settings do;
- drafts take only what nobody else wants: room in a small step, and pages while nobody waits for any and each running
  sequence could have one more; what they took and did not need is given back with their step.
Pure decisions: no tensors, no threads, no clock. The caller serialises calls.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from collections.abc import Sequence as Listed
from dataclasses import dataclass, replace

from .pages import PageAllocator
from .place import Place
from .sequence import Sequence, State
from .settings import EngineSettings


@dataclass(frozen=True)
class Chunk:
    """The tokens `start` ... `end - 1` of one sequence, and guesses of those that follow.

    Attributes:
        samples: Whether they end with the sequence's last token, so that the next one is sampled after them.
        drafts: What may follow; after each of them a token is sampled too. Only a chunk that samples has any.
    """

    sequence: Sequence
    start: int
    end: int
    samples: bool
    drafts: tuple[int, ...] = ()

    @property
    def stop(self) -> int:
        """The position after its last row, drafts included."""
        return self.end + len(self.drafts)

    @property
    def rows(self) -> int:
        """Packed tokens of the chunk."""
        return self.stop - self.start


@dataclass(frozen=True)
class StepPlan:
    """One step: its number, its chunks, decoding sequences first, and pages to be cleared before it runs."""

    number: int
    chunks: tuple[Chunk, ...]
    fresh_pages: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Packed tokens of the step."""
        return sum(chunk.rows for chunk in self.chunks)


class Scheduler:
    """Holds the waiting and the running sequences, both in order of arrival, and those held that wait for nothing but audits."""

    def __init__(self, settings: EngineSettings, allocator: PageAllocator) -> None:
        self._settings = settings
        self._allocator = allocator
        self._steps = 0
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.held: list[Sequence] = []
        self.preemptions = 0

    @property
    def has_work(self) -> bool:
        """Whether some sequence waits, or is ready for a step."""
        return bool(self.waiting) or any(sequence.state is State.READY for sequence in self.running)

    def add(self, sequence: Sequence) -> None:
        """Takes a new sequence; it must fit into all pages together."""
        insort(self.waiting, sequence, key=_arrival)

    def plan(self, *, admit: bool, draft: bool = True) -> StepPlan | None:
        """Chooses the next step of a lane, and marks its sequences as stepping; None when there is nothing to do.

        Args:
            admit: Whether waiting sequences may start.
            draft: Whether guesses may be tried.
        """
        for sequence in list(self.running):
            if sequence.state is State.READY:
                self._grow(sequence)
        if admit:
            self._admit()
        chunks = self._pick()
        if not chunks:
            return None
        if draft:
            chunks = self._draft(chunks)
        self._steps += 1
        fresh: list[int] = []
        for chunk in chunks:
            sequence = chunk.sequence
            sequence.state, sequence.served = State.STEPPING, self._steps
            if sequence.trail is not None:
                sequence.trail.stepping = chunk.rows
            fresh += sequence.fresh
            sequence.fresh = []
        return StepPlan(self._steps, tuple(chunks), tuple(fresh))

    def complete(self, plan: StepPlan, made: Iterable[Listed[int]]) -> None:
        """A step has run: its tokens are cached, and its sequences are ready again.

        Args:
            plan: The step.
            made: For each chunk the tokens that follow it: kept drafts, then the token sampled after the last of them; none
                when nothing was sampled.
        """
        for chunk, tokens in zip(plan.chunks, made, strict=True):
            sequence = chunk.sequence
            sequence.state = State.READY
            sequence.cached = chunk.end
            if tokens:
                sequence.tokens += tokens
                sequence.cached += len(tokens) - 1
                if sequence.drafter is not None:
                    sequence.drafter.fared(len(chunk.drafts), len(tokens) - 1)
            self._keep_pages(sequence, self._needed_pages(sequence))

    def holds(self, plan: StepPlan, sequence: Sequence) -> bool:
        """Whether a sequence is still in this very step."""
        return sequence.state is State.STEPPING and sequence.served == plan.number

    def withdraw(self, sequences: Iterable[Sequence]) -> None:
        """Running sequences give back their pages, and wait to be computed again."""
        for sequence in sequences:
            self.running.remove(sequence)
            self._release(sequence)
            self._wait(sequence)

    def hold(self, sequence: Sequence) -> None:
        """A ready sequence is complete but for its audits: it gives its pages back."""
        self.running.remove(sequence)
        self._release(sequence)
        sequence.state = State.HELD
        self.held.append(sequence)

    def take_back(self, sequence: Sequence, place: Place) -> None:
        """A sequence that is in no step is at an earlier place again, or at the start of the page that this place is in.

        Pages behind it are given back, so that whatever a wrong result has left in them is cleared before they are used again.
        """
        del sequence.tokens[place.length :]
        sequence.sources.back_at(place)
        if sequence.trail is not None:
            sequence.trail.stop()
        if sequence.drafter is not None:
            sequence.drafter.look_again()
        if sequence.state is State.HELD:
            self.held.remove(sequence)
            self._wait(sequence)
        pages = min(sequence.cached, place.cached) // self._settings.page_tokens
        sequence.cached = pages * self._settings.page_tokens
        self._keep_pages(sequence, pages)
        sequence.fresh = [page for page in sequence.fresh if page in sequence.pages]

    def compute_again_plainly(self, sequence: Sequence) -> None:
        """A sequence whose drafts did harm gives its pages back, waits, and gets no drafts any more."""
        if sequence.drafter is not None:
            sequence.drafter.silence()
        self.withdraw([sequence])

    def end(self, sequence: Sequence) -> None:
        """A sequence leaves for good; it must not be stepping, unless its step is over."""
        if sequence.state is State.ENDED:
            return
        lists = {State.WAITING: self.waiting, State.HELD: self.held}
        lists.get(sequence.state, self.running).remove(sequence)
        self._release(sequence)
        sequence.state = State.ENDED
        if sequence.trail is not None:
            sequence.trail.abandon()

    def _wait(self, sequence: Sequence) -> None:
        sequence.state = State.WAITING
        insort(self.waiting, sequence, key=_arrival)

    def _release(self, sequence: Sequence) -> None:
        """Takes all of its pages: whatever it was computed from, only its tokens are left."""
        self._keep_pages(sequence, 0)
        sequence.fresh, sequence.cached = [], 0
        sequence.sources.back_at(Place(0, len(sequence.tokens)))
        if sequence.trail is not None:
            sequence.trail.stop()

    def _keep_pages(self, sequence: Sequence, count: int) -> None:
        surplus = sequence.pages[count:]
        if surplus:
            del sequence.pages[count:]
            self._allocator.give_back(surplus)

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
            if sequence.state is State.READY
            and not self._missing_pages(sequence)
            and (sequence.trail is None or sequence.trail.room > 0)
        ]
        ready.sort(key=lambda sequence: (sequence.served, sequence.arrival))
        share = -(-len(self.running) // self._settings.lanes)
        budget = self._settings.max_step_tokens
        unaudited = self._unaudited_room()
        chunks: list[Chunk] = []
        for sequence in sorted(ready[:share], key=lambda sequence: sequence.remaining > 1):
            length = min(sequence.remaining, self._settings.prefill_chunk_tokens, budget)
            if not length:
                break
            if sequence.trail is not None:
                length = min(length, sequence.trail.room, unaudited)
                if length <= 0:
                    continue
                unaudited -= length
            end = sequence.cached + length
            chunks.append(Chunk(sequence, sequence.cached, end, samples=end == len(sequence.tokens)))
            budget -= length
        return chunks

    def _unaudited_room(self) -> int:
        """How many tokens of audited sequences may be computed now."""
        trails = [sequence.trail for sequence in (*self.running, *self.held) if sequence.trail is not None]
        return self._settings.unaudited_tokens_in_all - sum(trail.ahead for trail in trails)

    def _draft(self, chunks: list[Chunk]) -> list[Chunk]:
        """Fills what is left of a small step with drafts, the same number for each sequence as far as they have any."""
        for chunk in chunks:
            if chunk.sequence.drafter is not None:
                chunk.sequence.drafter.learn(chunk.end)
        limit = min(self._settings.draft_step_tokens, self._settings.max_step_tokens)
        room = limit - sum(chunk.rows for chunk in chunks)
        if room <= 0:
            return chunks
        audited = [chunk for chunk in chunks if chunk.sequence.trail is not None]
        unaudited = self._unaudited_room() - sum(chunk.rows for chunk in audited) if audited else 0
        drafted: list[Chunk] = []
        for place, chunk in enumerate(chunks):
            most = -(-room // (len(chunks) - place))
            if chunk.sequence.trail is not None:
                most = min(most, chunk.sequence.trail.room - chunk.rows, unaudited)
            drafts = self._drafts(chunk, most) if most > 0 else ()
            room -= len(drafts)
            unaudited -= len(drafts) if chunk.sequence.trail is not None else 0
            drafted.append(replace(chunk, drafts=drafts))
        return drafted

    def _drafts(self, chunk: Chunk, most: int) -> tuple[int, ...]:
        sequence = chunk.sequence
        if not chunk.samples or sequence.drafter is None:
            return ()
        drafts = sequence.drafter.propose(most)
        own = len(sequence.pages) * self._settings.page_tokens
        missing = -(-(chunk.end + len(drafts) - own) // self._settings.page_tokens)
        if missing > 0:
            if self.waiting or missing + len(self.running) > self._allocator.free:
                return drafts[: own - chunk.end]
            self._take(sequence, missing)
        return drafts

    def _needed_pages(self, sequence: Sequence) -> int:
        return -(-len(sequence.tokens) // self._settings.page_tokens)

    def _missing_pages(self, sequence: Sequence) -> int:
        return self._needed_pages(sequence) - len(sequence.pages)

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
