"""A coordinator as a source: the manifest, and the experts of the model that it serves, as streams of checked chunks.

Guarantees: never more bytes than were asked for, in order and without gaps; a coordinator that goes quiet is given up; nothing
here says that the bytes are right, which only their SHA-256 can.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

import grpc

from ...ids import ExpertKey
from ...models.manifest import MAX_MANIFEST_BYTES, Manifest
from ...protos.folkmoot.v1 import experts_pb2, experts_pb2_grpc
from ...protos.limits import CHUNK_BYTES
from ..enrol import Enroller
from ..remote import TicketRefusedError, named, readable
from .weight_source import NotOfferedError, Piece, SourceError, SourceSilentError, Want

Request = TypeVar("Request", experts_pb2.ManifestRequest, experts_pb2.FetchRequest)


_NOT_HERE = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED})


class CoordinatorSource:
    """A coordinator's copies, over a channel of their own so that bulk never stands before a frame.

    Args:
        stall_s: How long it may bring nothing.
        name: What people call it; the node's own coordinator, unless it is said.
        own: Whether it is the node's own: then there is nobody to ask after it. Another one is asked for experts by their
            SHA-256 alone, whatever its own model is called.
    """

    remote = True
    joins = False

    def __init__(
        self,
        channel: grpc.aio.Channel,
        enroller: Enroller,
        *,
        stall_s: float,
        name: str = "the coordinator",
        own: bool = True,
    ) -> None:
        self.name = name
        self.last_resort = own
        self._stub = experts_pb2_grpc.ExpertsStub(channel)
        self._enroller = enroller
        self._stall_s = stall_s

    def offers(self, manifest: Manifest, key: ExpertKey) -> bool:
        """Always: what it does not have it says."""
        return True

    async def manifest(self, digest: bytes, length: int) -> bytes:
        """The bytes of the manifest of this digest.

        Raises:
            SourceError: when the bytes are too many, too few, or not those of the digest.
            SourceSilentError, CoordinatorLostError, TicketRefusedError, NodeRefusedError: when they cannot be had.
        """
        if not 0 < length <= MAX_MANIFEST_BYTES:
            raise SourceError(f"a manifest of {length} bytes is over the cap of {MAX_MANIFEST_BYTES}")
        request = experts_pb2.ManifestRequest(manifest_digest=digest)
        data = b"".join([part async for part in self._chunks(self._stub.Manifest, request, 0, length)])
        if len(data) != length or hashlib.sha256(data).digest() != digest:
            raise SourceError(f"the coordinator sent another manifest than {digest.hex()[:12]}")
        return data

    async def fetch(self, manifest: Manifest, wants: Sequence[Want]) -> AsyncGenerator[Piece, None]:
        """What is wanted, one expert after another.

        Raises:
            SourceError: when a chunk is out of place or too large.
            SourceSilentError, CoordinatorLostError, TicketRefusedError, NodeRefusedError, NotOfferedError: when it cannot be had;
                only after the first three is it worth trying again.
        """
        for want in wants:
            size = manifest.expert_bytes(want.key)
            for span in want.missing:
                request = experts_pb2.FetchRequest(
                    manifest_digest=manifest.digest,
                    layer=want.key.layer,
                    expert=want.key.expert,
                    offset=span.start,
                    length=span.length,
                )
                if not self.last_resort:
                    request.sha256 = bytes.fromhex(manifest.experts[want.key].sha256)
                offset = span.start
                async with aclosing(self._chunks(self._stub.Fetch, request, offset, size)) as chunks:
                    async for data in chunks:
                        yield Piece(want.key, offset, data[: span.end - offset])
                        offset += len(data)
                        if offset >= span.end:
                            break
                if offset < span.end:
                    return

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
            raise SourceSilentError(f"the source sent nothing for {self._stall_s:g} s") from None
        except grpc.aio.AioRpcError as error:
            if error.code() in _NOT_HERE:
                raise NotOfferedError(
                    f"{self.name} does not have it: {readable(error.details() or '')}"
                ) from error
            cause = named(error, "the download failed")
            if isinstance(cause, TicketRefusedError):
                await self._enroller.ticket(refused=request.ticket)
            raise cause from error
        finally:
            call.cancel()
