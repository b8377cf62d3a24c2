"""Everywhere that this node may get experts from, as the contributor set it, over all links of its life.

Guarantees: the order is local folders, the model hub, other coordinators, and last the node's own coordinator; what was found
out of a source lasts as long as the node's process; downloads of all links share one limit.
"""

from __future__ import annotations

from ..models.manifest import Manifest
from ..trust.invite import Invite
from ..trust.keys import Identity
from .batch import Manners
from .claims import Claims
from .download import Downloader
from .rate_limit import RateLimit
from .settings import NodeSettings
from .sources.folder import LocalFolder
from .sources.hub import ModelHub
from .sources.other_coordinator import OtherCoordinator
from .sources.standing import SourceOrder, Standings
from .sources.weight_source import WeightSource
from .store import ExpertStore


class Weights:
    """The sources of one node.

    Args:
        limit: How fast downloads may be; shared with whoever else has it.

    Raises:
        NoSuchFolderError, HubAddressError, InviteError: when a setting names no source.
    """

    def __init__(self, settings: NodeSettings, identity: Identity, limit: RateLimit) -> None:
        self._limit = limit
        self._claims = Claims()
        self._manners = Manners(settings.fetch_pause_s, settings.fetch_floor_bytes_per_s)
        self._standings = Standings()
        stall_s, connect_s = settings.fetch_stall_s, settings.connect_timeout_s
        self._folders = [LocalFolder(folder, stall_s=stall_s) for folder in dict.fromkeys(settings.weights)]
        self._hubs = [
            ModelHub(
                settings.hub_url,
                token=settings.hub_token,
                trusted_hosts=settings.hub_hosts,
                stall_s=stall_s,
                connect_s=connect_s,
            )
            for _ in range(bool(settings.hub_url))
        ]
        self._others = [
            OtherCoordinator(
                Invite.parse(invite),
                identity,
                settings.shown(identity.node_id),
                connect_s=connect_s,
                stall_s=stall_s,
            )
            for invite in dict.fromkeys(settings.weight_invites)
            if invite != settings.invite
        ]

    async def downloader(self, manifest: Manifest, store: ExpertStore, own: WeightSource) -> Downloader:
        """What gets experts of a model, asking the node's own coordinator last."""
        for folder in self._folders:
            await folder.look(manifest)
        order = SourceOrder(manifest, [*self._folders, *self._hubs, *self._others, own], self._standings)
        return Downloader(manifest, store, order, self._manners, self._limit, self._claims)

    async def close(self) -> None:
        """Ends all connections; closing twice is harmless."""
        for hub in self._hubs:
            await hub.close()
        for other in self._others:
            await other.close()
