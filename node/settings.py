"""The node's settings: one frozen object, made from flags over environment over a TOML file over defaults.

Guarantees: an instance is complete and valid; a wrong value is one line that names where it came from and what is wrong
with it; nothing else in the node reads the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import BeforeValidator, Field
from pydantic_settings import SettingsConfigDict

from ..errors import UsageError
from ..home import folkmoot_home
from ..settings_base import ComponentSettings
from .limits import parse_bytes
from .machine import default_memory_bytes, default_threads


def _amount(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_bytes(value)
    except UsageError as error:
        raise ValueError(str(error)) from error


Amount = Annotated[int, BeforeValidator(_amount), Field(gt=0)]


class NodeSettings(ComponentSettings):
    """What one node is told; environment variables are `FOLKMOOT_NODE_` and the name in capitals.

    Attributes:
        invite: The string that the operator's coordinator printed.
        memory_bytes: Most bytes of experts held in memory ('4GiB' is read too); half of what is free by default. A node
            that is started lends no more than its machine has, whatever this says: `within`.
        disk_bytes: Most bytes of experts kept on disk, assigned or not; twice `memory_bytes` by default, so that
            experts that were assigned before need no download when they come back.
        threads: Threads that one product uses; the physical cores that this process may use by default.
        state_dir: Identity, manifests and experts; `node` in Folkmoot's home by default.
        name: What people call the node; made from its key by default.
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

    invite: str = Field(min_length=1, repr=False)
    memory_bytes: Amount = Field(default_factory=default_memory_bytes)
    disk_bytes: Amount = Field(
        default_factory=lambda data: 2 * data.get("memory_bytes", default_memory_bytes())
    )
    threads: int = Field(default_factory=default_threads, ge=1, le=1024)
    state_dir: Path = Field(default_factory=lambda: folkmoot_home() / "node")
    name: str = Field(default="", max_length=64)
    fetch_streams: int = Field(default=4, ge=1, le=64)
    connect_timeout_s: float = Field(default=10.0, gt=0)
    fetch_stall_s: float = Field(default=30.0, gt=0)
    fetch_pause_s: float = Field(default=0.5, gt=0)
    reconnect_first_s: float = Field(default=0.5, gt=0)
    reconnect_cap_s: float = Field(default=30.0, gt=0)
    holdings_interval_s: float = Field(default=0.25, ge=0)
    progress_interval_s: float = Field(default=5.0, gt=0)
    leave_timeout_s: float = Field(default=1.0, gt=0)

    def within(self, lendable_bytes: int) -> Self:
        """The same settings, but for memory over what can be lent, and a limit of the disk that follows from it."""
        if self.memory_bytes <= lendable_bytes:
            return self
        less = {"memory_bytes": lendable_bytes}
        if "disk_bytes" not in self.model_fields_set:
            less["disk_bytes"] = 2 * lendable_bytes
        return self.model_copy(update=less)
