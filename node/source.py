"""Where a node gets the manifest and the experts: the coordinator, as a stream of checked chunks.

Guarantees: never more bytes than were asked for, in order and without gaps; a source that goes quiet is given up; nothing
here says that the bytes are right, which only their SHA-256 can.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from typing import TypeVar

import grpc

from ..errors import WireError
from ..ids import ExpertKey
from ..models.manifest import MAX_MANIFEST_BYTES
from ..protos.folkmoot.v1 import experts_pb2, experts_pb2_grpc
from ..protos.limits import CHUNK_BYTES
from .enrol import Enroller
from .remote import CoordinatorLostError, TicketRefusedError, named

Request = TypeVar("Request", experts_pb2.ManifestRequest, experts_pb2.FetchRequest)


class SourceError(WireError):
    """The source sent what was not asked for."""


class ExpertSource:
    """The coordinator's copies, over a channel of their own so that bulk never stands before a frame."""

    def __init__(self, channel: grpc.aio.Channel, enroller: Enroller, *, stall_s: float) -> None:
        self._stub = experts_pb2_grpc.ExpertsStub(channel)
        self._enroller = enroller
        self._stall_s = stall_s

    async def manifest(self, digest: bytes, length: int) -> bytes:
        """The bytes of the manifest of this digest.

        Raises:
            SourceError: when the bytes are too many, too few, or not those of the digest.
            CoordinatorLostError, TicketRefusedError, NodeRefusedError: when they cannot be had.
        """
        if not 0 < length <= MAX_MANIFEST_BYTES:
            raise SourceError(f"a manifest of {length} bytes is over the cap of {MAX_MANIFEST_BYTES}")
        request = experts_pb2.ManifestRequest(manifest_digest=digest)
        data = b"".join([part async for part in self._chunks(self._stub.Manifest, request, 0, length)])
        if len(data) != length or hashlib.sha256(data).digest() != digest:
            raise SourceError(f"the coordinator sent another manifest than {digest.hex()[:12]}")
        return data

    def expert(
        self, manifest: bytes, key: ExpertKey, offset: int, length: int
    ) -> AsyncGenerator[bytes, None]:
        """The canonical bytes of an expert, from an offset to its length; fewer when the source ends early.

        Raises:
            SourceError: when a chunk is out of place or too large.
            CoordinatorLostError, TicketRefusedError, NodeRefusedError: when they cannot be had; only after the first
                two is it worth trying again.
        """
        request = experts_pb2.FetchRequest(
            manifest_digest=manifest, layer=key.layer, expert=key.expert, offset=offset
        )
        return self._chunks(self._stub.Fetch, request, offset, length)

    async def _chunks(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Request, experts_pb2.Chunk],
        request: Request,
        offset: int,
        end: int,
    ) -> AsyncGenerator[bytes, None]:
        request.ticket = await self._enroller.ticket()
        call = method(request)
        try:
            while True:
                async with asyncio.timeout(self._stall_s):
                    chunk = await call.read()
                if chunk is grpc.aio.EOF:
                    return
                if not isinstance(chunk, experts_pb2.Chunk):  # gRPC makes None of what cannot be parsed
                    raise SourceError("the source sent a message that cannot be read")
                data = chunk.data
                if chunk.offset != offset or not data or len(data) > min(CHUNK_BYTES, end - offset):
                    raise SourceError(
                        f"the source sent {len(data)} bytes at {chunk.offset}; {end - offset} are wanted at {offset}"
                    )
                offset += len(data)
                yield data
        except TimeoutError:
            raise CoordinatorLostError(f"the source sent nothing for {self._stall_s:g} s") from None
        except grpc.aio.AioRpcError as error:
            cause = named(error, "the download failed")
            if isinstance(cause, TicketRefusedError):
                await self._enroller.ticket(refused=request.ticket)
            raise cause from error
        finally:
            call.cancel()
