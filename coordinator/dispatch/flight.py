"""One layer call in flight: from its routing to the sum of verified results.

Guarantees: `result` returns only when every pair of the routing is in exactly one result, or was computed here; results are verified by
then, or their checks are pending on the step's tally, which says when it is settled whether all of them were right; a frame that fails,
for whatever reason, is planned again over the replicas that have not failed this call; when an expert has none left, the call waits for
one to appear, and gives up after `expert_wait_s`. Outputs are added in the order in which frames were planned, and those that stand in
for a slow one at its place, so the sum does not depend on who answers first. A frame that takes longer than its host usually does is sent
to another replica as well, where one is expected to be faster: the side whose answers are all verified first is used, and the other is
not waited for. Nothing a node does raises anything but `ExpertsUnavailableError`.

The thread that waits does the work: it computes what the coordinator hosts itself, reads answers and sums, while the event loop
goes on receiving. Letters: T rows of the step, R rows of a frame, H hidden size.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...errors import CapacityError, ModelError, UnavailableError
from ...ids import short
from ...models.pool import StepTally
from ...protos.folkmoot.v1 import link_pb2
from ...protos.limits import MAX_ACTIVATION
from ..self_host.own_host import OwnHost
from .answering import Event, LateAnswers, Use, check_answer, check_aside, hand_on, read_answer
from .choice import HostEstimate
from .directory import AnyHost, LayerHosts
from .host import Ending, Failure, Host, SentFrame
from .pairs import Pairs
from .part import OwnPart, Part, Race, frame_to
from .plan import Plan, PlannedFrame, plan
from .verified_result import Cover

if TYPE_CHECKING:
    from .network_experts import NetworkExperts

log = logging.getLogger(__name__)

LOOK_UP_S = 1.0
"""How often a waiting call looks whether the network was closed meanwhile."""


class ExpertsUnavailableError(UnavailableError):
    """Some expert had no host that answered in time."""


class NotFiniteActivationsError(ModelError):
    """The trunk gave numbers that no expert can work on."""


class Flight:
    """The pending answer of one layer's expert call: an `ExpertFuture`."""

    def __init__(self, network: NetworkExperts, layer: int, hidden: torch.Tensor, tally: StepTally) -> None:
        """`hidden` is copied: the caller may write to it as soon as this returns."""
        self._network = network
        self._layer = layer
        self._hidden = hidden.clone(memory_format=torch.contiguous_format)  # [T, H]
        self._tally = tally
        self._inbox: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._parts: dict[SentFrame, Part] = {}
        self._lost: dict[SentFrame, Part] = {}
        self._late: list[tuple[SentFrame, Part, Ending]] = []
        self._late_answers: LateAnswers | None = None
        self._own_parts: list[OwnPart] = []
        self._orphans: Pairs | None = None
        self._outputs: dict[tuple[int, ...], tuple[PlannedFrame, torch.Tensor]] = {}
        self._planned = 0
        self._excluded: dict[AnyHost, float] = {}
        self._trouble_since: float | None = None
        self._finite = True
        self._answer: torch.Tensor | None = None

    def launch(self, pairs: Pairs) -> None:
        """Plans and sends the call's frames. Called once, before `result`."""
        # A NaN is the maximum, and not at most anything. Nodes refuse such rows: it is no fault of theirs.
        self._finite = not self._hidden.numel() or float(self._hidden.abs().max()) <= MAX_ACTIVATION
        if self._finite:
            self._orphans = self._dispatch(pairs)

    def result(self) -> torch.Tensor:
        """Waits for the answer: [T, H] float32.

        Raises:
            ExpertsUnavailableError: when some expert had no host that answered within the limits.
            NotFiniteActivationsError: when `hidden` holds NaN, infinity, or numbers beyond `MAX_ACTIVATION`.
        """
        if self._answer is None:
            if not self._finite:
                raise NotFiniteActivationsError(
                    f"the activations before layer {self._layer} are not finite, or beyond all that models have",
                    advice="check the model's weights, or use a wider dtype",
                )
            for part in self._parts.values():
                part.state()
            self._compute_own()
            if self._orphans is None:
                self._collect()
            else:
                self._collect_with_changes()
            self._answer = self._sum()
            self._tally.layers += 1
            if self._lost or self._late:
                self._late_answers = LateAnswers(
                    self._network, self._layer, self._inbox, self._lost, self._late
                )
                self._network.aside.leave(self._late_answers.take)
        return self._answer

    def _collect(self) -> None:
        """Takes answers until all are in; goes on with `_collect_with_changes` when some pairs have nowhere to go."""
        while self._parts:
            self._take(self._until_hedge_s(LOOK_UP_S))
            if self._orphans is not None:
                self._dispatch_orphans()
                if self._orphans is not None:
                    self._collect_with_changes()

    def _collect_with_changes(self) -> None:
        """The same, told by the directory of each new holder."""
        directory = self._network.directory
        directory.subscribe(self._wake)
        try:
            while self._parts or self._orphans is not None:
                wait_s = LOOK_UP_S
                self._dispatch_orphans()
                if self._orphans is not None:
                    left_s = self._patience_s()
                    if left_s <= 0 or directory.closed:
                        raise self._unavailable(self._orphans)
                    now = time.monotonic()
                    wait_s = min(wait_s, left_s, *(end - now for end in self._excluded.values() if end > now))
                if self._parts or self._orphans is not None:
                    self._take(self._until_hedge_s(wait_s))
        finally:
            directory.unsubscribe(self._wake)

    def _patience_s(self) -> float:
        """How much longer to wait for a host, counted since the last verified answer that came before the trouble."""
        now = time.monotonic()
        if self._trouble_since is None:
            self._trouble_since = now
        return self._trouble_since + self._network.settings.expert_wait_s - now

    def _wake(self) -> None:
        self._inbox.put(None)

    def _take(self, wait_s: float) -> None:
        """Handles one event, or none within the time."""
        try:
            event = self._inbox.get(timeout=wait_s)
        except queue.Empty:
            # A loop that ended without a word leaves frames behind that nobody will ever end.
            if self._network.directory.closed and self._parts:
                raise self._unavailable(next(iter(self._parts.values())).planned.pairs) from None
            self._hedge()
            return
        if event is None:
            return
        frame, ending = event
        part = self._parts.pop(frame, None)
        if part is None:
            if (lost := self._lost.pop(frame, None)) is not None:
                self._late.append((frame, lost, ending))
            return
        if isinstance(ending, Failure):
            self._failed(part, ending)
        else:
            self._answered(frame, part, ending)

    def _answered(self, frame: SentFrame, part: Part, result: link_pb2.Result) -> None:
        network, layer, race, unchecked = self._network, self._layer, part.race, self._tally.unchecked
        # Whose answer wins a race, and what it is compared with, must be known before.
        checked_later = unchecked is not None and race is None
        if not read_answer(network, frame, part, result) or not (
            checked_later or check_answer(network, layer, frame, part, result)
        ):
            self._tally.results_rejected += 1
            self._give_back(part, inf)
            return
        self._trouble_since = None
        if checked_later and unchecked is not None:
            check_aside(network, layer, frame, part, result, self._use(part), unchecked)
            return
        self._tally.results_verified += 1
        if race is None:
            hand_on(network, part, self._use(part))
        elif race.answered(part):
            for winner in race.winners:
                hand_on(network, winner, self._use(winner))
            if part is not race.first:
                network.counters.hedge_won()
            self._let_go(race)

    def _use(self, part: Part) -> Use:
        """An answer becomes part of the sum."""
        assert part.output is not None, "only what was read is used"
        self._tally.nodes.add(part.host.node)
        self._outputs[part.order] = (part.planned, part.output)
        cover = self._cover(part.planned) if self._network.watcher is not None else None
        self._tally.audits += cover is not None
        return Use(self._tally.step, cover)

    def _cover(self, planned: PlannedFrame) -> Cover | None:
        """Which of a frame's rows must be audited."""
        step = self._tally.audited
        if step is None:
            return None
        # Where experts scale their input, a token has a row for each of its experts.
        rows = np.flatnonzero(step.rows[planned.rows // (len(self._hidden) // len(step.rows))])
        return Cover(step, rows) if len(rows) else None

    def _failed(self, part: Part, failure: Failure) -> None:
        self._network.counters.failed(failure.value)
        log.info(
            "layer %d: node %s did not answer (%s); trying another replica",
            self._layer,
            short(part.host.node),
            failure.value,
        )
        patient = failure is Failure.OVERLOADED and self._patience_s() > 0
        pause = self._network.settings.overload_pause_s if patient else inf
        self._give_back(part, time.monotonic() + pause)

    def _give_back(self, part: Part | OwnPart, excluded_until: float) -> None:
        """The part's pairs have to be planned again, without this host for a while."""
        self._excluded[part.host] = excluded_until
        pairs = part.planned.pairs
        if isinstance(part, Part) and (race := part.race) is not None:
            without_any, pairs = race.failed(part), race.first.planned.pairs
            self._let_go(race)
            if not without_any:
                return
        self._orphans = pairs if self._orphans is None else Pairs.join([self._orphans, pairs])

    def _until_hedge_s(self, most_s: float) -> float:
        """How long to wait before some frame has taken too long."""
        hedge_at_s = min((part.hedge_at_s for part in self._parts.values()), default=inf)
        return most_s if hedge_at_s == inf else min(max(hedge_at_s - time.monotonic(), 0.0), most_s)

    def _hedge(self) -> None:
        """Sends the rows of each frame that has taken too long to others as well, where that may help."""
        network, now = self._network, time.monotonic()
        for part in [part for part in self._parts.values() if part.hedge_at_s <= now]:
            layer = network.directory.layer(self._layer)
            usable = [
                host is not part.host and host not in self._excluded and not isinstance(host, OwnHost)
                for host in layer.hosts
            ]
            planned, estimates = self._plan(part.planned.pairs, layer, usable)
            if not network.hedging.claim(planned, estimates, now - part.sent_s):
                # The longer a frame has been waited for, the sooner others can be expected to be faster.
                later_s = now + max(now - part.sent_s, network.settings.hedge_least_s)
                part.hedge_at_s = later_s if planned.orphans is None else inf
                continue
            seconds = self._prepare_all(planned, layer.hosts, part)
            race = Race(part, [self._parts[frame] for _, frame in seconds])
            for one in race.parts:
                one.race, one.hedge_at_s = race, inf
            network.counters.hedged(len(seconds), sum(frame.rows for _, frame in seconds))
            self._send(seconds, part.planned.pairs)

    def _let_go(self, race: Race) -> None:
        """Whatever of a race is still out and not needed is waited for no more; what came for nothing is credited."""
        for frame in [
            frame for frame, part in self._parts.items() if part.race is race and not race.needs(part)
        ]:
            self._lost[frame] = self._parts.pop(frame)
        watcher = self._network.watcher
        for part in race.unused():
            if watcher is not None and part.verified is not None:
                watcher(part.verified)

    def _dispatch_orphans(self) -> None:
        """Sends what had no host, or whose host failed, and has one now; computes what the coordinator has itself."""
        if self._orphans is not None:
            self._orphans = self._dispatch(self._orphans)
            self._compute_own()

    def _compute_own(self) -> None:
        """Does the coordinator's own part, while nodes do theirs."""
        while self._own_parts:
            part = self._own_parts.pop()
            planned = part.planned
            try:
                output = part.host.compute(part.groups, self._rows_of(planned), planned.work)
            except (RuntimeError, MemoryError, CapacityError) as error:
                log.warning("layer %d: the coordinator cannot compute its part: %s", self._layer, error)
                self._network.counters.failed(Failure.INTERNAL.value)
                self._give_back(part, inf)
                continue
            self._outputs[part.order] = (planned, output)
            self._tally.results_own += 1
            self._network.counters.own(len(planned.rows))

    def _dispatch(self, pairs: Pairs) -> Pairs | None:
        """Sends what has a host; returns the pairs that have none."""
        network = self._network
        if network.directory.closed:
            return pairs
        layer = network.directory.layer(self._layer)
        now = time.monotonic()
        usable = [self._excluded.get(host, 0.0) <= now for host in layer.hosts] if self._excluded else None
        planned, _ = self._plan(pairs, layer, usable)
        frames = self._prepare_all(planned, layer.hosts)
        if frames:
            retries = len(frames) if self._excluded else 0
            self._tally.retries += retries
            network.counters.sent(len(frames), sum(frame.rows for _, frame in frames), retries=retries)
            network.hedging.sent(len(frames), sum(frame.work for _, frame in frames))
            self._send(frames, pairs)
        return planned.orphans

    def _plan(
        self, pairs: Pairs, layer: LayerHosts, usable: Sequence[bool] | None
    ) -> tuple[Plan, list[HostEstimate]]:
        """Who may compute what, and what was believed of each host; `usable` says of each whether it may be asked."""
        network, holders = self._network, layer.holders
        if usable is not None:
            holders = tuple(tuple(index for index in having if usable[index]) for having in holders)
        estimates = [host.estimate() for host in layer.hosts]
        cost_s = network.settings.frame_cost_s
        planned = plan(pairs, holders, estimates, layer.expert_bytes, network.caps, cost_s, turn=self._layer)
        return planned, estimates

    def _prepare_all(
        self, planned: Plan, hosts: Sequence[AnyHost], instead_of: Part | None = None
    ) -> list[tuple[Host, SentFrame]]:
        """The frames that are to be sent; what is for the coordinator itself is put aside."""
        frames: list[tuple[Host, SentFrame]] = []
        for number, frame in enumerate(planned.frames):
            host = hosts[frame.host]
            order = (self._planned,) if instead_of is None else (*instead_of.order, number)
            self._planned += 1
            if isinstance(host, OwnHost):
                groups = host.take(self._layer, frame.local)
                self._own_parts.append(OwnPart(order, host, frame, groups))
            else:
                frames.append((host, self._prepare(frame, host, order)))
        return frames

    def _send(self, frames: list[tuple[Host, SentFrame]], pairs: Pairs) -> None:
        try:
            self._network.send(frames)
        except RuntimeError:
            raise self._unavailable(pairs) from None

    def _rows_of(self, planned: PlannedFrame) -> torch.Tensor:
        """[R, H] the rows of a frame."""
        if len(planned.rows) == len(self._hidden):
            return self._hidden
        return self._hidden.index_select(0, torch.from_numpy(planned.rows))

    def _prepare(self, planned: PlannedFrame, host: Host, order: tuple[int, ...]) -> SentFrame:
        hidden = self._rows_of(planned)
        frame = frame_to(host, self._layer, planned, hidden, self._on_end)
        deadline_ms = frame.message.frame.deadline_ms
        part = Part(order, host, planned, hidden, deadline_ms, time.monotonic())
        hedging = self._network.hedging
        if hedging.enabled:
            part.hedge_at_s = part.sent_s + hedging.patience_s(host, planned.work, frame.deadline_s)
        self._parts[frame] = part
        return frame

    def _on_end(self, frame: SentFrame, ending: Ending) -> None:
        frame.ended_at_s = time.monotonic()
        self._inbox.put((frame, ending))
        if self._late_answers is not None:
            self._network.aside.leave(self._late_answers.take)

    def _sum(self) -> torch.Tensor:
        total = torch.zeros(self._hidden.shape, dtype=torch.float32)  # [T, H]
        for order in sorted(self._outputs):
            planned, output = self._outputs[order]
            if len(planned.rows) == len(total):
                total += output
            else:
                total.index_add_(0, torch.from_numpy(planned.rows), output)
        return total

    def _unavailable(self, pairs: Pairs) -> ExpertsUnavailableError:
        experts = sorted({int(expert) for expert in pairs.experts})
        named = ", ".join(map(str, experts[:8])) + (", ..." if len(experts) > 8 else "")
        return ExpertsUnavailableError(
            f"no host answered for layer {self._layer} expert{'s' * (len(experts) > 1)} {named}",
            advice="wait for nodes to come back, or let more nodes join",
        )
