"""The coordinator's settings: one frozen object, made from flags over environment over a TOML file over defaults.

Guarantees: an instance is complete and valid; a wrong value is one line that names where it came from and what is wrong
with it; nothing else in the coordinator reads the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from ..amounts import parse_bytes
from ..home import folkmoot_home
from ..logs import LogFormat
from ..settings_base import ComponentSettings, read_by
from .api.settings import ApiSettings
from .audit.settings import AuditSettings
from .books.settings import BooksSettings
from .dispatch.network_experts import DispatchSettings
from .engine.settings import EngineSettings
from .hub.settings import DEFAULT_PORT, HubSettings
from .ledger.settings import ReceiptSettings
from .probe.settings import ProbeSettings

DEFAULT_API_PORT = 8000


class CoordinatorSettings(ComponentSettings):
    """What one coordinator is told; environment variables are `FOLKMOOT_COORDINATOR_` and the name in capitals, with two
    underscores before a name within `engine`, `audit`, `receipts`, `books` or `api`.

    Attributes:
        model: Folder of the prepared model.
        host: Address to listen on for nodes; 0.0.0.0 or :: for all.
        port: TCP port for nodes; 0 takes a free one.
        public_host: What invites name; empty takes `host`, or this machine's address when `host` means all.
        api_host: Address of the HTTP API.
        api_port: TCP port of the HTTP API; 0 takes a free one.
        state_dir: Identity, TLS key and join secret; `operator` in Folkmoot's home by default.
        threads: Threads that one product of the trunk uses; 0 leaves it to torch.
        self_host_bytes: Most bytes of experts that the coordinator hosts itself ('8GiB' is read too), mapped from the prepared
            model; 0 for none.
        replicas: How many hosts each expert should have, the coordinator counted.
        frame_deadline_s: How long a node has for a frame, before rows are counted.
        row_deadline_s: How much longer for each row that it has to work on.
        expert_wait_s: How long a step waits for a host of an expert to appear before it is given up.
        hedge_share: The most of all frames that may be sent to a second replica as well because the first is slower than it
            usually is; 0 sends none.
        lost_grace_s: How long a lost node's experts wait for its return before they are placed elsewhere.
        restart_grace_s: The same after a start, for the nodes of the last time: they try again every half minute at the latest.
        replan_s: How often what was measured of traffic and speeds may change the placement.
        tidy_share: The part of all copies that may move each time only so that experts that work together come together.
        ticket_lifetime_s: How long a ticket lets a node attach again without a new enrolment.
        max_rows_in_flight: Rows of all unanswered frames of one node.
        log_format: "text" for people, or "json": one object a line.
        engine: The engine's limits.
        audit: How results are audited, and what follows.
        probe: How nodes are tried before they get traffic.
        receipts: When nodes get receipts, and what of them is put on record.
        books: Where nodes, owners, standings, receipts and credits are kept.
        api: How the HTTP API behaves; what the model's own generation settings advise when not given.
    """

    component: ClassVar[str] = "coordinator"
    model_config = SettingsConfigDict(env_prefix="FOLKMOOT_COORDINATOR_", env_nested_delimiter="__")

    model: Path
    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=DEFAULT_PORT, ge=0, lt=1 << 16)
    public_host: str = ""
    api_host: str = Field(default="127.0.0.1", min_length=1)
    api_port: int = Field(default=DEFAULT_API_PORT, ge=0, lt=1 << 16)
    state_dir: Path = Field(default_factory=lambda: folkmoot_home() / "operator")
    threads: int = Field(default=0, ge=0, le=1024)
    self_host_bytes: Annotated[int, read_by(parse_bytes, str), Field(ge=0)] = 0
    replicas: int = Field(default=2, ge=1, le=16)
    frame_deadline_s: float = Field(default=10.0, gt=0)
    row_deadline_s: float = Field(default=0.02, gt=0)
    expert_wait_s: float = Field(default=10.0, gt=0)
    hedge_share: float = Field(default=0.05, ge=0, le=0.5)
    lost_grace_s: float = Field(default=10.0, gt=0)
    restart_grace_s: float = Field(default=35.0, gt=0)
    replan_s: float = Field(default=300.0, gt=0)
    tidy_share: float = Field(default=0.002, ge=0, le=1)
    ticket_lifetime_s: float = Field(default=3600.0, gt=0)
    max_rows_in_flight: int = Field(default=4096, ge=1024)
    log_format: LogFormat = LogFormat.TEXT
    engine: EngineSettings = EngineSettings()
    audit: AuditSettings = AuditSettings()
    probe: ProbeSettings = ProbeSettings()
    receipts: ReceiptSettings = ReceiptSettings()
    books: BooksSettings = BooksSettings()
    api: ApiSettings | None = None

    @property
    def hub(self) -> HubSettings:
        """What of it the hub is told."""
        return HubSettings(
            host=self.host,
            port=self.port,
            public_host=self.public_host,
            replicas=self.replicas,
            ticket_lifetime_s=self.ticket_lifetime_s,
            max_rows_in_flight=self.max_rows_in_flight,
            frame_deadline_s=self.frame_deadline_s,
            row_deadline_s=self.row_deadline_s,
            lost_grace_s=self.lost_grace_s,
            restart_grace_s=self.restart_grace_s,
            replan_s=self.replan_s,
            tidy_share=self.tidy_share,
        )

    @property
    def dispatch(self) -> DispatchSettings:
        """What of it dispatch is told."""
        return DispatchSettings(expert_wait_s=self.expert_wait_s, hedge_share=self.hedge_share)
