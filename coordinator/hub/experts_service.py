"""The Experts service: the manifest and the experts' canonical bytes, streamed to nodes.

Guarantees: only the holder of a good ticket is served, only what this network's model has, and only so many streams at once each;
weights are read in chunks as they are sent, off the event loop, so memory does not grow with an expert's size or with a
slow reader; a stream that starts at an offset ends with the same last byte as one from 0.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import grpc

from ...errors import ModelError
from ...ids import ExpertKey, NodeId, short
from ...models.manifest import Manifest
from ...protos.folkmoot.v1 import experts_pb2
from ...protos.folkmoot.v1.experts_pb2_grpc import ExpertsServicer
from ...protos.limits import CHUNK_BYTES
from ...trust.keys import KEY_BYTES, node_id
from ...trust.tickets import TicketError, check_ticket

log = logging.getLogger(__name__)


class ExpertSource(Protocol):
    """Where canonical bytes come from: a prepared model."""

    @property
    def manifest(self) -> Manifest:
        """What the network agrees on."""
        ...

    def read_expert(self, key: ExpertKey, offset: int = 0, length: int | None = None) -> bytes:
        """Canonical bytes of an expert, from an offset on. May be called from many threads."""
        ...


class ExpertBlobs(ExpertsServicer):
    """Serves one model's experts."""

    def __init__(
        self, source: ExpertSource, coordinator_key: bytes, streams_per_node: int, threads: int
    ) -> None:
        self._source = source
        self._by_digest = {entry.sha256: key for key, entry in source.manifest.experts.items()}
        self._coordinator_key = coordinator_key
        self._streams_per_node = streams_per_node
        self._streams: Counter[NodeId] = Counter()
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="expert-reader")

    def close(self) -> None:
        """Ends the reading threads."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def Manifest(
        self, request: experts_pb2.ManifestRequest, context: Any
    ) -> AsyncIterator[experts_pb2.Chunk]:
        """The manifest's bytes."""
        node = await self._admit(request.ticket, request.manifest_digest, context)
        with self._stream_of(node):
            encoded = self._source.manifest.encoded
            for offset in range(0, len(encoded), CHUNK_BYTES):
                yield experts_pb2.Chunk(offset=offset, data=encoded[offset : offset + CHUNK_BYTES])

    async def Fetch(
        self, request: experts_pb2.FetchRequest, context: Any
    ) -> AsyncIterator[experts_pb2.Chunk]:
        """An expert's canonical bytes, or a stretch of them."""
        manifest = self._source.manifest
        # Bytes that are named by their digest are the same in every model that has them.
        of = manifest.digest if request.sha256 else request.manifest_digest
        node = await self._admit(request.ticket, of, context)
        key = self._by_digest.get(request.sha256.hex(), ExpertKey(request.layer, request.expert))
        if key not in manifest.experts or (request.sha256 and request.sha256.hex() not in self._by_digest):
            await context.abort(grpc.StatusCode.NOT_FOUND, "this network's model has no such expert")
        end = manifest.expert_bytes(key)
        if request.offset > end:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, f"{key} has {end} bytes")
        if request.length:
            end = min(end, request.offset + request.length)
        loop = asyncio.get_running_loop()
        with self._stream_of(node):
            for offset in range(request.offset, end, CHUNK_BYTES):
                count = min(CHUNK_BYTES, end - offset)
                try:
                    data = await loop.run_in_executor(
                        self._readers, self._source.read_expert, key, offset, count
                    )
                except ModelError as error:
                    log.error("%s cannot be sent to node %s: %s", key, short(node), error)
                    await context.abort(grpc.StatusCode.DATA_LOSS, f"the coordinator cannot read {key}")
                yield experts_pb2.Chunk(offset=offset, data=data)

    async def _admit(self, ticket: bytes, manifest_digest: bytes, context: Any) -> NodeId:
        """The node that holds the ticket, if it may start one more stream of this model."""
        # Whoever the ticket names is who it is for: here it is the only thing that says who asks.
        holder = ticket[:KEY_BYTES]
        try:
            check_ticket(self._coordinator_key, ticket, holder, time.time())
        except TicketError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        if manifest_digest != self._source.manifest.digest:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this network runs another model")
        node = node_id(holder)
        if self._streams[node] >= self._streams_per_node:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"at most {self._streams_per_node} downloads at once"
            )
        return node

    @contextmanager
    def _stream_of(self, node: NodeId) -> Iterator[None]:
        self._streams[node] += 1
        try:
            yield
        finally:
            self._streams[node] -= 1
            if not self._streams[node]:
                del self._streams[node]
