"""Another coordinator as a source: one that the contributor has an invite of, asked for experts by their SHA-256.

Guarantees: it is reached only when it is first needed; its certificate is pinned by its invite as that of the node's own; the
node enrols there with its key, and opens no link, so it gets no work from there. One connection, made again when it breaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

import grpc

from ...ids import ExpertKey
from ...models.manifest import Manifest
from ...protos.limits import channel_options
from ...trust.invite import Invite
from ...trust.keys import Identity
from ...trust.tls import TLS_NAME, check_certificate, fetch_certificate
from ..enrol import Enroller
from ..tasks import abandonable
from .coordinator import CoordinatorSource
from .weight_source import Piece, Want


class OtherCoordinator:
    """What one coordinator has, for nodes of others too.

    Args:
        node_name: What the node says that it is called.
        connect_s: How long each answer may take while connecting.
    """

    remote = True
    joins = False
    last_resort = False

    def __init__(
        self, invite: Invite, identity: Identity, node_name: str, *, connect_s: float, stall_s: float
    ) -> None:
        self.name = f"the coordinator at {invite.address}"
        self._invite = invite
        self._identity = identity
        self._node_name = node_name
        self._connect_s = connect_s
        self._stall_s = stall_s
        self._connecting = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._source: CoordinatorSource | None = None

    def offers(self, manifest: Manifest, key: ExpertKey) -> bool:
        """Always: what it does not have it says."""
        return True

    async def fetch(self, manifest: Manifest, wants: Sequence[Want]) -> AsyncGenerator[Piece, None]:
        """What is wanted, one expert after another."""
        source = await self._connected()
        async with aclosing(source.fetch(manifest, wants)) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        """Ends the connection; closing twice is harmless."""
        self._source = None
        await self._stack.aclose()

    async def _connected(self) -> CoordinatorSource:
        async with self._connecting:
            if self._source is None:
                invite = self._invite
                certificate = await abandonable(fetch_certificate, invite.host, invite.port, self._connect_s)
                coordinator_key = check_certificate(certificate, invite.fingerprint)
                channel = await self._stack.enter_async_context(
                    grpc.aio.secure_channel(
                        invite.address,
                        grpc.ssl_channel_credentials(certificate),
                        options=channel_options(TLS_NAME),
                    )
                )
                enroller = Enroller(
                    channel,
                    invite=invite,
                    identity=self._identity,
                    coordinator_key=coordinator_key,
                    name=self._node_name,
                    timeout_s=self._connect_s,
                )
                self._source = CoordinatorSource(
                    channel, enroller, stall_s=self._stall_s, name=self.name, own=False
                )
            return self._source
