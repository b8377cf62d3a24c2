"""What an operator may choose about links, enrolment and placement.

Guarantees: values that cannot work together are refused when the settings are made.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError
from ...protos.limits import MAX_ROWS_PER_FRAME

DEFAULT_PORT = 7440


@dataclass(frozen=True)
class HubSettings:
    """How the hub behaves.

    Attributes:
        host: Address to listen on; 0.0.0.0 or :: for all.
        port: TCP port; 0 takes a free one.
        public_host: What invites name; empty takes `host`, or this machine's address when `host` means all.
        replicas: How many nodes should hold each expert.
        ticket_lifetime_s: How long a ticket lets a node attach again without a new enrolment.
        challenge_lifetime_s: How long a node has between the two halves of enrolment.
        handshake_s: How long a node may take for each message of the handshake.
        ping_interval_s: How often the round trip to each node is measured.
        silence_s: A node that says nothing for so long is lost.
        max_rows_in_flight: Rows of all unanswered frames of one node.
        frame_deadline_s: How long a node has for a frame, before rows are counted.
        row_deadline_s: How much longer for each row that it has to work on.
        misses_before_cut: A node that misses so many deadlines in a row loses its link.
        faults_before_ban: A node whose results were rejected on so many links is quarantined, until the operator admits it.
        lost_grace_s: How long a lost node's experts wait for its return before they are placed elsewhere.
        restart_grace_s: How long, after a start, the experts of a node of the last time wait for its return before they are placed
            elsewhere; nodes try again every half minute at the latest.
        settle_s: How long to wait for more changes before experts are placed.
        replan_s: How often what was measured of traffic and speeds may change the placement.
        tidy_share: The part of all copies that may move each time only so that experts that work together come together.
        fetch_streams_per_node: Downloads that one node may run at once.
        fetch_threads: Threads that read weights from disk.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    public_host: str = ""
    replicas: int = 2
    ticket_lifetime_s: float = 3600.0
    challenge_lifetime_s: float = 60.0
    handshake_s: float = 10.0
    ping_interval_s: float = 5.0
    silence_s: float = 30.0
    max_rows_in_flight: int = 4 * MAX_ROWS_PER_FRAME
    frame_deadline_s: float = 10.0
    row_deadline_s: float = 0.02
    misses_before_cut: int = 3
    faults_before_ban: int = 3
    lost_grace_s: float = 10.0
    restart_grace_s: float = 35.0
    settle_s: float = 0.25
    replan_s: float = 300.0
    tidy_share: float = 0.002
    fetch_streams_per_node: int = 16
    fetch_threads: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_s") and value <= 0:
                raise UsageError(f"{name} is {value}", advice="give seconds above zero")
        if not 0 <= self.tidy_share <= 1:
            raise UsageError(f"tidy_share is {self.tidy_share}", advice="give a part from 0 to 1")
        if not 0 <= self.port < 1 << 16:
            raise UsageError(
                f"{self.port} is no port", advice="name one from 1 to 65535, or 0 for any free one"
            )
        if self.silence_s < 2 * self.ping_interval_s:
            raise UsageError(
                f"silence_s is {self.silence_s} with ping_interval_s {self.ping_interval_s}",
                advice="a node must be able to miss one ping: give at least twice the interval",
            )
        if self.max_rows_in_flight < MAX_ROWS_PER_FRAME:
            raise UsageError(
                f"max_rows_in_flight is {self.max_rows_in_flight}",
                advice=f"give at least {MAX_ROWS_PER_FRAME}",
            )
        for name in (
            "replicas",
            "misses_before_cut",
            "faults_before_ban",
            "fetch_streams_per_node",
            "fetch_threads",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}", advice="give 1 or more")
