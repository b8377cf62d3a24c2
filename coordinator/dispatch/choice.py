"""Which replica computes which expert of one layer call: a pure function.

Guarantees: each expert that has a host gets exactly one, and it is one of its hosts; the same arguments give the same
choice. Few hosts are used while a frame costs more than it saves, and work is spread over more of them where it does not.

The cost of a call is modelled as the time of its slowest host, plus a fixed cost for each frame. A host's time is the time
until it can begin, plus the bytes of the distinct experts that it reads over the rate at which it was measured to work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIKE = 1.4
"""Times and speeds that differ by less count as equal: that much of a measurement is noise, and equals share a call evenly."""
ROWS_AS_DEAR_AS_READING = 8
"""With so many rows more, computing an expert takes about as long again as reading its weights."""


@dataclass(frozen=True, slots=True)
class HostEstimate:
    """What is believed of one host, all of it measured by the coordinator.

    Attributes:
        start_s: Until work that is sent now could begin there and its answer be back: round trip and work before it.
        seconds_per_byte: Of expert weights.
        here: Whether it is this process: nothing is sent, and no frame costs anything.
    """

    start_s: float
    seconds_per_byte: float
    here: bool = False

    def frame_cost_s(self, cost_s: float) -> float:
        """What a frame costs with this host, when it costs so much with a node."""
        return 0.0 if self.here else cost_s


def expert_work(expert_bytes: int, rows: int) -> float:
    """What one expert with some rows costs, in bytes of weights read."""
    return expert_bytes * (1 + (rows - 1) / ROWS_AS_DEAR_AS_READING)


def choose(
    works: Sequence[float],
    holders: Sequence[Sequence[int]],
    hosts: Sequence[HostEstimate],
    frame_cost_s: float,
    turn: int = 0,
) -> list[int]:
    """Chooses a host for each expert of a call.

    Args:
        works: `expert_work` of each expert.
        holders: For each expert the hosts that hold it, as indices into `hosts`; at least one.
        hosts: The hosts.
        frame_cost_s: What one more frame costs the coordinator.
        turn: Which host goes first among equals.

    Returns:
        For each expert an index into `hosts`.
    """
    if len(hosts) > 1:
        hosts = _levelled(hosts)
    held = [0.0] * len(hosts)
    for work, having in zip(works, holders, strict=True):
        for host in having:
            held[host] += work
    opened = _cover(works, holders, hosts, held, frame_cost_s, turn)
    if len(opened) < len(hosts):
        _widen(opened, sum(works), hosts, held, frame_cost_s, turn)
    return _share(works, holders, hosts, opened)


def _levelled(hosts: Sequence[HostEstimate]) -> list[HostEstimate]:
    """The hosts with each time and speed taken for the best of those that it is like."""
    starts = _groups([host.start_s for host in hosts])
    speeds = _groups([host.seconds_per_byte for host in hosts])
    return [
        HostEstimate(start_s, speed, host.here)
        for start_s, speed, host in zip(starts, speeds, hosts, strict=True)
    ]


def _groups(values: Sequence[float]) -> list[float]:
    """Each value's group's least: groups begin at the least value, and reach to `ALIKE` times where they begin."""
    least: dict[float, float] = {}
    begin = -1.0
    for value in sorted(values):
        if begin < 0 or value > begin * ALIKE:
            begin = value
        least[value] = begin
    return [least[value] for value in values]


def _cover(
    works: Sequence[float],
    holders: Sequence[Sequence[int]],
    hosts: Sequence[HostEstimate],
    held: Sequence[float],
    frame_cost_s: float,
    turn: int,
) -> list[int]:
    """Hosts that together hold every expert: each time the one that does most of what is left in the least time."""
    opened: list[int] = []
    left = range(len(works))
    reach = list(held)
    while True:
        best, best_rate = -1, 0.0
        for step in range(len(hosts)):
            host = (turn + step) % len(hosts)
            if reach[host] > 0:
                estimate = hosts[host]
                cost_s = estimate.start_s + estimate.frame_cost_s(frame_cost_s)
                rate = reach[host] / (cost_s + reach[host] * estimate.seconds_per_byte)
                if rate > best_rate:
                    best, best_rate = host, rate
        opened.append(best)
        left_after = [index for index in left if best not in holders[index]]
        if not left_after:
            return opened
        left = left_after  # type: ignore[assignment]
        reach = [0.0] * len(hosts)
        for index in left:
            for host in holders[index]:
                reach[host] += works[index]


def _widen(
    opened: list[int],
    total: float,
    hosts: Sequence[HostEstimate],
    held: Sequence[float],
    frame_cost_s: float,
    turn: int,
) -> None:
    """Opens further hosts while the next one saves more time than its frame costs."""
    rate = sum(1 / hosts[host].seconds_per_byte for host in opened)
    finish = total / rate + sum(hosts[host].start_s / hosts[host].seconds_per_byte for host in opened) / rate
    least_cost_s = min(host.frame_cost_s(frame_cost_s) for host in hosts)
    while finish > least_cost_s:
        best, best_gain = -1, 0.0
        for step in range(len(hosts)):
            host = (turn + step) % len(hosts)
            if held[host] <= 0 or host in opened:
                continue
            own = 1 / hosts[host].seconds_per_byte
            share = (finish - hosts[host].start_s) * own * rate / (own + rate)
            gain = min(held[host], share) / rate
            if gain > max(best_gain, hosts[host].frame_cost_s(frame_cost_s)):
                best, best_gain = host, gain
        if best < 0:
            return
        opened.append(best)
        rate += 1 / hosts[best].seconds_per_byte
        finish -= best_gain


def _share(
    works: Sequence[float],
    holders: Sequence[Sequence[int]],
    hosts: Sequence[HostEstimate],
    opened: Sequence[int],
) -> list[int]:
    """Gives each expert to the open holder that would finish it first; those with least choice, then most work, first."""
    if len(opened) == 1:
        return [opened[0]] * len(works)
    chosen = [-1] * len(works)
    finish = {host: hosts[host].start_s for host in opened}
    options = [[host for host in opened if host in having] for having in holders]
    for index in sorted(range(len(works)), key=lambda index: (len(options[index]), -works[index])):
        work, best, best_finish = works[index], -1, float("inf")
        for host in options[index]:
            end = finish[host] + work * hosts[host].seconds_per_byte
            if end < best_finish:
                best, best_finish = host, end
        chosen[index] = best
        finish[best] = best_finish
    return chosen
