"""The node's settings: one frozen object, made from flags over environment over a TOML file over defaults.

Guarantees: an instance is complete and valid; a wrong value is one line that names where it came from and what is wrong
with it; nothing else in the node reads the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Self

from huggingface_hub import constants
from pydantic import Field
from pydantic_settings import NoDecode, SettingsConfigDict

from ..amounts import parse_bytes
from ..home import folkmoot_home
from ..ids import NodeId, short
from ..logs import LogFormat
from ..settings_base import ComponentSettings, read_by
from .hours import Hours
from .limits import parse_rate
from .machine import default_memory_bytes, default_threads

DEFAULT_HUB = constants.ENDPOINT
"""The one that transformers downloads from; the environment's `HF_ENDPOINT` names another."""
PSEUDONYM = "pseudonym"
"""As a public name: one that is made from the node's key."""


Amount = Annotated[int, read_by(parse_bytes, str), Field(gt=0)]
Rate = Annotated[int, read_by(parse_rate, str), Field(ge=0)]
WorkingHours = Annotated[Hours, NoDecode, read_by(Hours.parse, str, list, tuple)]


class NodeSettings(ComponentSettings):
    """What one node is told; environment variables are `FOLKMOOT_NODE_` and the name in capitals.

    Attributes:
        invite: The string that a coordinator's operator gave; empty for the coordinators that were joined before.
        memory_bytes: Most bytes of experts held in memory ('4GiB' is read too); half of what is free by default. A node
            that is started lends no more than its machine has, whatever this says: `within`.
        disk_bytes: Most bytes of experts kept on disk, assigned or not; twice `memory_bytes` by default, so that
            experts that were assigned before need no download when they come back.
        threads: Threads that one product uses; the physical cores that this process may use by default.
        state_dir: Identity, manifests and experts; `node` in Folkmoot's home by default.
        name: What its contributor calls the node; made from its key by default.
        public_name: What coordinators show to everybody: `name` by default; "pseudonym" is one that is made from the key.
        download_bytes_per_s: Most bytes a second of experts from anywhere ('5MiB/s' and '40Mbit/s' are read too); 0 for no
            limit.
        upload_bytes_per_s: Most bytes a second of results to all coordinators together; 0 for no limit.
        hours: When the node works, like ["22:00-07:00"] in this machine's local time; it pauses outside of them. Always by
            default.
        log_format: "text" for people, or "json": one object a line.
        weights: Folders on this machine to take experts from first: published checkpoints, or prepared models.
        hub_url: Where the model hub is that published models are asked of, by manifests that name a repository of it; empty
            to ask none. A coordinator cannot change it.
        hub_token: Proves to the hub, and to nobody else, who asks; for repositories that are not open to all.
        hub_hosts: Hosts that the hub may lead to though they are not on the public internet.
        weight_invites: Invites of other coordinators that may be asked for experts; the node enrols there, but does no work.
        fetch_floor_bytes_per_s: A source that brings less while there is another is left alone for some minutes; 0 for
            never.
        fetch_streams: Experts that are downloaded at once.
        connect_timeout_s: How long to wait for each answer while joining.
        fetch_stall_s: How long a download may bring nothing before it is started again.
        fetch_pause_s: How long to wait before a failed download is tried again.
        reconnect_first_s: The first pause after a lost link, before jitter; each pause doubles.
        reconnect_cap_s: The longest pause between two tries.
        holdings_interval_s: The shortest time between two reports of what is ready.
        progress_interval_s: The time between two progress lines of a download.
        leave_timeout_s: How long a node that is told to stop may take to say goodbye.
    """

    component: ClassVar[str] = "node"
    model_config = SettingsConfigDict(env_prefix="FOLKMOOT_NODE_")

    invite: str = Field(default="", repr=False)
    memory_bytes: Amount = Field(default_factory=default_memory_bytes)
    disk_bytes: Amount = Field(
        default_factory=lambda data: 2 * data.get("memory_bytes", default_memory_bytes())
    )
    threads: int = Field(default_factory=default_threads, ge=1, le=1024)
    state_dir: Path = Field(default_factory=lambda: folkmoot_home() / "node")
    name: str = Field(default="", max_length=64)
    public_name: str = Field(default="", max_length=64)
    download_bytes_per_s: Rate = 0
    upload_bytes_per_s: Rate = 0
    hours: WorkingHours = Hours()
    log_format: LogFormat = LogFormat.TEXT
    weights: tuple[Path, ...] = ()
    hub_url: str = DEFAULT_HUB
    hub_token: str = Field(default="", repr=False)
    hub_hosts: tuple[str, ...] = ()
    weight_invites: tuple[str, ...] = Field(default=(), repr=False)
    fetch_floor_bytes_per_s: Rate = 16 << 10
    fetch_streams: int = Field(default=4, ge=1, le=64)
    connect_timeout_s: float = Field(default=10.0, gt=0)
    fetch_stall_s: float = Field(default=30.0, gt=0)
    fetch_pause_s: float = Field(default=0.5, gt=0)
    reconnect_first_s: float = Field(default=0.5, gt=0)
    reconnect_cap_s: float = Field(default=30.0, gt=0)
    holdings_interval_s: float = Field(default=0.25, ge=0)
    progress_interval_s: float = Field(default=5.0, gt=0)
    leave_timeout_s: float = Field(default=1.0, gt=0)

    def called(self, node: NodeId) -> str:
        """What its contributor calls this node."""
        return self.name or f"node-{short(node)}"

    def shown(self, node: NodeId) -> str:
        """What this node is called in public."""
        if self.public_name == PSEUDONYM:
            return f"node-{short(node)}"
        return self.public_name or self.called(node)

    def within(self, lendable_bytes: int) -> Self:
        """The same settings, but for memory over what can be lent, and a limit of the disk that follows from it."""
        if self.memory_bytes <= lendable_bytes:
            return self
        less = {"memory_bytes": lendable_bytes}
        if "disk_bytes" not in self.model_fields_set:
            less["disk_bytes"] = 2 * lendable_bytes
        return self.model_copy(update=less)
