"""One layer call in flight: from its routing to the sum of verified results.

Guarantees: `result` returns only when every pair of the routing is in exactly one verified result, or was computed here; a frame
that fails, for whatever reason, is planned again over the replicas that have not failed this call; when an expert has none left, the
call waits for one to appear, and gives up after `expert_wait_s`. Outputs are added in the order in which frames were planned,
so the sum does not depend on who answers first. Nothing a node does raises anything but `ExpertsUnavailableError`.

The thread that waits does the work: it computes what the coordinator hosts itself, checks signatures and sums, while the event loop
goes on reading. Letters: T rows of the step, R rows of a frame, H hidden size.
"""

from __future__ import annotations

import logging
import queue
import time
from dataclasses import dataclass
from math import ceil, inf
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...errors import CapacityError, ModelError, TrustError, UnavailableError, WireError
from ...ids import short
from ...kernels.feed_forward import Group
from ...models.pool import StepTally
from ...protos.codec import encode_tensor, raw_bytes, wire_dtype
from ...protos.folkmoot.v1 import link_pb2
from ...trust.statements import TaskStatement, tensor_digest
from ..self_host.own_host import OwnHost
from .acceptance import Expected, accept, reason_of
from .directory import AnyHost
from .host import Ending, Failure, Host, SentFrame
from .pairs import Pairs
from .plan import PlannedFrame, plan
from .verified_result import Cover, VerifiedResult

if TYPE_CHECKING:
    from .network_experts import NetworkExperts

log = logging.getLogger(__name__)

LOOK_UP_S = 1.0
"""How often a waiting call looks whether the network was closed meanwhile."""


class ExpertsUnavailableError(UnavailableError):
    """Some expert had no host that answered in time."""


class NotFiniteActivationsError(ModelError):
    """The trunk gave numbers that no expert can work on."""


@dataclass(slots=True)
class Part:
    """A frame of this call that is out: where it went and what was in it.

    Attributes:
        order: Its place in the sum.
        host: Whom it was sent to.
        planned: Its pairs and rows.
        hidden: [R, H] what was sent; nobody else writes to it.
        routing, input: Their digests; empty until `state` is called.
    """

    order: int
    host: Host
    planned: PlannedFrame
    hidden: torch.Tensor
    deadline_ms: int
    routing: bytes = b""
    input: bytes = b""

    def state(self) -> None:
        """Makes the digests that the answer will be checked against."""
        if not self.input:
            self.routing = self.planned.local.digest
            self.input = tensor_digest(
                wire_dtype(self.hidden.dtype), self.hidden.shape, raw_bytes(self.hidden)
            )


@dataclass(frozen=True, slots=True)
class OwnPart:
    """What of this call the coordinator computes itself: its place in the sum, who computes it, and what is in it."""

    order: int
    host: OwnHost
    planned: PlannedFrame
    groups: list[Group]


class Flight:
    """The pending answer of one layer's expert call: an `ExpertFuture`."""

    def __init__(self, network: NetworkExperts, layer: int, hidden: torch.Tensor, tally: StepTally) -> None:
        """`hidden` is copied: the caller may write to it as soon as this returns."""
        self._network = network
        self._layer = layer
        self._hidden = hidden.clone(memory_format=torch.contiguous_format)  # [T, H]
        self._tally = tally
        self._inbox: queue.SimpleQueue[tuple[SentFrame, Ending] | None] = queue.SimpleQueue()
        self._parts: dict[SentFrame, Part] = {}
        self._own_parts: list[OwnPart] = []
        self._orphans: Pairs | None = None
        self._outputs: dict[int, tuple[PlannedFrame, torch.Tensor]] = {}
        self._planned = 0
        self._excluded: dict[AnyHost, float] = {}
        self._trouble_since: float | None = None
        self._finite = True
        self._answer: torch.Tensor | None = None

    def launch(self, pairs: Pairs) -> None:
        """Plans and sends the call's frames. Called once, before `result`."""
        self._finite = bool(torch.isfinite(self._hidden).all())
        if self._finite:
            self._orphans = self._dispatch(pairs)

    def result(self) -> torch.Tensor:
        """Waits for the answer: [T, H] float32.

        Raises:
            ExpertsUnavailableError: when some expert had no host that answered within the limits.
            NotFiniteActivationsError: when `hidden` holds NaN or infinity.
        """
        if self._answer is None:
            if not self._finite:
                raise NotFiniteActivationsError(
                    f"the activations before layer {self._layer} are not finite",
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
        return self._answer

    def _collect(self) -> None:
        """Takes answers until all are in; goes on with `_collect_with_changes` when some pairs have nowhere to go."""
        while self._parts:
            self._take(LOOK_UP_S)
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
                    self._take(wait_s)
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
            return
        if event is None:
            return
        frame, ending = event
        part = self._parts.pop(frame, None)
        if part is None:
            return
        if isinstance(ending, Failure):
            self._failed(part, ending)
        else:
            self._answered(frame, part, ending)

    def _answered(self, frame: SentFrame, part: Part, result: link_pb2.Result) -> None:
        network = self._network
        rows, hidden = part.hidden.shape
        part.state()
        task = TaskStatement(
            coordinator=network.coordinator_key,
            node=part.host.key.raw,
            session=part.host.session,
            sequence=frame.sequence,
            manifest=network.manifest.digest,
            profile=network.manifest.profile,
            layer=self._layer,
            rows=rows,
            hidden=hidden,
            routing=part.routing,
            input=part.input,
            deadline_ms=part.deadline_ms,
        )
        try:
            accepted = accept(result, Expected(task, part.host.key))
        except (WireError, TrustError) as error:
            reason = reason_of(error)
            self._tally.results_rejected += 1
            network.counters.rejected(reason, signed=bool(result.signature))
            part.host.rejected(frame, error, reason)
            self._give_back(part, inf)
            return
        network.counters.verified()
        part.host.verified(frame)
        self._trouble_since = None
        self._tally.results_verified += 1
        self._tally.nodes.add(part.host.node)
        self._outputs[part.order] = (part.planned, accepted.output)
        if network.watcher is not None:
            planned, statement, cover = part.planned, accepted.statement, self._cover(part.planned)
            self._tally.audits += cover is not None
            network.watcher(
                VerifiedResult(
                    part.host, task, planned.local, part.hidden, result, statement, self._tally.step, cover
                )
            )

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
        self._orphans = pairs if self._orphans is None else Pairs.join([self._orphans, pairs])

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
        holders = layer.holders
        if self._excluded:
            now = time.monotonic()
            usable = [self._excluded.get(host, 0.0) <= now for host in layer.hosts]
            holders = tuple(tuple(index for index in having if usable[index]) for having in holders)
        planned = plan(
            pairs,
            holders,
            [host.estimate() for host in layer.hosts],
            layer.expert_bytes,
            network.caps,
            network.settings.frame_cost_s,
            turn=self._layer,
        )
        frames: list[tuple[Host, SentFrame]] = []
        for frame in planned.frames:
            host = layer.hosts[frame.host]
            if isinstance(host, OwnHost):
                groups = host.take(self._layer, frame.local)
                self._own_parts.append(OwnPart(self._planned, host, frame, groups))
                self._planned += 1
            else:
                frames.append((host, self._prepare(frame, host)))
        if frames:
            retries = len(frames) if self._excluded else 0
            self._tally.retries += retries
            network.counters.sent(len(frames), sum(frame.rows for _, frame in frames), retries=retries)
            try:
                network.send(frames)
            except RuntimeError:
                raise self._unavailable(pairs) from None
        return planned.orphans

    def _rows_of(self, planned: PlannedFrame) -> torch.Tensor:
        """[R, H] the rows of a frame."""
        if len(planned.rows) == len(self._hidden):
            return self._hidden
        return self._hidden.index_select(0, torch.from_numpy(planned.rows))

    def _prepare(self, planned: PlannedFrame, host: Host) -> SentFrame:
        hidden = self._rows_of(planned)
        message = link_pb2.CoordinatorMessage()
        wire = message.frame
        wire.CopyFrom(planned.local.message)
        wire.layer = self._layer
        wire.hidden.CopyFrom(encode_tensor(hidden))
        deadline_s = host.deadline_s(len(planned.rows))
        wire.deadline_ms = ceil(deadline_s * 1000)
        frame = SentFrame(message, len(planned.rows), planned.work, deadline_s, self._on_end)
        host.reserve(frame)
        self._parts[frame] = Part(self._planned, host, planned, hidden, wire.deadline_ms)
        self._planned += 1
        return frame

    def _on_end(self, frame: SentFrame, ending: Ending) -> None:
        self._inbox.put((frame, ending))

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
