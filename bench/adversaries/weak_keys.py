"""Nodes that try to enrol under keys of small order, under which one constant signature fits every message.

Guarantees: each is the real daemon, but for its key; all encodings of such keys are tried, those that are not canonical too.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Awaitable
from typing import Final

from ...errors import FolkmootError
from ...node.daemon import NodeDaemon
from ...node.premises import Premises
from ...node.settings import NodeSettings
from ...trust.keys import KEY_BYTES, Identity, node_id
from .changes import small_order

_PRIME: Final = 2**255 - 19
_ORDER_8: Final = (
    int.from_bytes(
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
    ),
    int.from_bytes(
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
    ),
)
SMALL_ORDER_KEYS: Final = tuple(
    (y | sign << 255).to_bytes(KEY_BYTES, "little")
    for y, sign in itertools.product((0, 1, _PRIME - 1, _PRIME, _PRIME + 1, *_ORDER_8), (0, 1))
)
"""All encodings of the eight points whose order divides the cofactor, as lax decoders read them."""


class WeakIdentity(Identity):
    """Somebody whose public key is of small order: no secret belongs to it."""

    def __init__(self, public: bytes) -> None:
        super().__init__(bytes(KEY_BYTES))
        for name, value in (("public", public), ("node_id", node_id(public))):
            object.__setattr__(self, name, value)

    def sign(self, message: bytes) -> bytes:
        """The one signature."""
        return small_order(b"")


async def enrols(settings: NodeSettings, public: bytes, admitted: Awaitable[None]) -> str | None:
    """Lets a node under this key join: why it may not, None when it is in.

    Args:
        admitted: Ends when the coordinator has the node among its own.
    """
    own = Premises.open(settings)
    node = NodeDaemon(settings, premises=dataclasses.replace(own, identity=WeakIdentity(public)))
    await node.start()
    refused, inside = asyncio.ensure_future(node.wait()), asyncio.ensure_future(admitted)
    try:
        await asyncio.wait({refused, inside}, return_when=asyncio.FIRST_COMPLETED)
        if not refused.done():
            inside.result()
            return None
        await refused
    except FolkmootError as error:
        return error.message
    finally:
        for task in (refused, inside):
            task.cancel()
        await asyncio.gather(refused, inside, return_exceptions=True)
        await node.stop()
        await own.close()
    return None
