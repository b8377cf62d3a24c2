"""Canonical statements: the exact bytes that are signed.

Guarantees: every statement is of one fixed width, big-endian, and begins with a 32-byte domain tag that carries the
protocol's version, so no statement can be taken for another kind's; text enters as its SHA-256; a field of the wrong
width is refused, never padded or cut. Two statements are equal in bytes only if all their fields are equal.

Digests of tensors and routings bind dtype, shape and every length, and read their buffers without a copy. They are BLAKE3, for
every result is digested at both ends while a step waits; everything else is SHA-256.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from blake3 import blake3

from ..errors import TrustError
from ..ids import SessionId

DIGEST_BYTES: Final = 32
NONCE_BYTES: Final = 32
MAX_RANK: Final = 8


class StatementError(TrustError):
    """A field cannot stand in a statement: it has the wrong width or range."""


def domain_tag(name: str) -> bytes:
    """The 32 bytes that a kind of statement begins with.

    Raises:
        StatementError: when the name is longer than fits.
    """
    tag = f"folkmoot/v1/{name}".encode()
    if len(tag) > DIGEST_BYTES:
        raise StatementError(f"{name!r} is too long for a tag")
    return tag.ljust(DIGEST_BYTES, b"\0")


_TENSOR_TAG: Final = domain_tag("tensor")
_ROUTING_TAG: Final = domain_tag("routing")
_TASK_TAG: Final = domain_tag("task")
_RESULT_TAG: Final = domain_tag("result")
_SESSION_ID_TAG: Final = domain_tag("session-id")
_SESSION_TAG: Final = domain_tag("session")
_ENROLMENT_TAG: Final = domain_tag("enrolment")
_MANIFEST_TAG: Final = domain_tag("manifest")
_TICKET_TAG: Final = domain_tag("ticket")
_TLS_TAG: Final = domain_tag("tls")

_TENSOR: Final = struct.Struct(f">32sII{MAX_RANK}QQ")
_ROUTING: Final = struct.Struct(">32sQQQ")
_TASK: Final = struct.Struct(">32s32s32s32sQ32s32sIII32s32sQ")
_RESULT: Final = struct.Struct(">32s32s32sI")
_TICKET: Final = struct.Struct(">32s32s32sQ")
TASK_BYTES: Final = _TASK.size
RESULT_BYTES: Final = _RESULT.size
_NO_DIMENSIONS: Final = (0,) * MAX_RANK


def tensor_digest(dtype: int, shape: Sequence[int], data: bytes | memoryview) -> bytes:
    """BLAKE3 that names a tensor: 32 bytes.

    Args:
        dtype: The number of the wire's `DType`.
        shape: At most 8 dimensions.
        data: The tensor's bytes, row-major and little-endian, contiguous; a view is one of bytes.

    Raises:
        StatementError: when the shape has too many dimensions, or a number is out of range.
    """
    rank = len(shape)
    if rank > MAX_RANK:
        raise StatementError(f"a tensor of rank {rank} cannot be stated: at most {MAX_RANK}")
    length = data.nbytes if isinstance(data, memoryview) else len(data)
    try:
        header = _TENSOR.pack(_TENSOR_TAG, dtype, rank, *shape, *_NO_DIMENSIONS[rank:], length)
    except struct.error as error:
        raise StatementError(f"dtype {dtype} and shape {tuple(shape)} cannot be stated ({error})") from None
    return blake3(header).update(data).digest()


def routing_digest(experts: bytes | memoryview, rows: bytes | memoryview, gates: bytes | memoryview) -> bytes:
    """BLAKE3 that names which experts work on which rows, and with which gates: 32 bytes.

    Args:
        experts, rows: int32 each, little-endian, in canonical order.
        gates: float32, little-endian.
    """
    parts = [memoryview(part) for part in (experts, rows, gates)]
    digest = blake3(_ROUTING.pack(_ROUTING_TAG, *(part.nbytes for part in parts)))
    for part in parts:
        if part.nbytes:
            digest.update(part.cast("B"))
    return digest.digest()


@dataclass(frozen=True, slots=True)
class TaskStatement:
    """One frame: all that a node's answer to it is bound to.

    Attributes:
        coordinator, node: Their public keys.
        session: The link's session id.
        sequence: The frame's number within the session.
        manifest: Digest of the model's manifest.
        profile: Name of the arithmetic profile.
        layer: Index of the decoder layer.
        rows, hidden: Shape of the input.
        routing: `routing_digest` of the pairs.
        input: `tensor_digest` of the hidden rows.
        deadline_ms: The frame's deadline, as the wire states it.
    """

    coordinator: bytes
    node: bytes
    session: bytes
    sequence: int
    manifest: bytes
    profile: str
    layer: int
    rows: int
    hidden: int
    routing: bytes
    input: bytes
    deadline_ms: int

    def encode(self) -> bytes:
        """The canonical bytes.

        Raises:
            StatementError: when a field has the wrong width or range.
        """
        _check_width(self.coordinator, self.node, self.session, self.manifest, self.routing, self.input)
        try:
            return _TASK.pack(
                _TASK_TAG,
                self.coordinator,
                self.node,
                self.session,
                self.sequence,
                self.manifest,
                _text_digest(self.profile),
                self.layer,
                self.rows,
                self.hidden,
                self.routing,
                self.input,
                self.deadline_ms,
            )
        except struct.error as error:
            raise StatementError(f"a task's numbers are out of range ({error})") from None

    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes: what a result refers to."""
        return hashlib.sha256(self.encode()).digest()

    @classmethod
    def decode(cls, data: bytes, profile: str) -> TaskStatement:
        """Reads what `encode` made, given the profile's name, which the bytes have only the digest of.

        Raises:
            StatementError: when the bytes are no task statement, or one under another profile.
        """
        if len(data) != TASK_BYTES:
            raise StatementError(f"a task statement has {TASK_BYTES} bytes, not {len(data)}")
        tag, coordinator, node, session, sequence, manifest, stated, *rest = _TASK.unpack(data)
        if tag != _TASK_TAG:
            raise StatementError("these bytes are no task statement")
        if stated != _text_digest(profile):
            raise StatementError(f"the task was stated under another profile than {profile!r}")
        layer, rows, hidden, routing, input_digest, deadline_ms = rest
        return cls(
            coordinator,
            node,
            session,
            sequence,
            manifest,
            profile,
            layer,
            rows,
            hidden,
            routing,
            input_digest,
            deadline_ms,
        )


@dataclass(frozen=True, slots=True)
class ResultStatement:
    """What a node signs: to this task, this output.

    Attributes:
        task: `TaskStatement.digest`.
        output: `tensor_digest` of the uncompressed output.
        status: 0 for a computed result.
    """

    task: bytes
    output: bytes
    status: int

    def encode(self) -> bytes:
        """The canonical bytes.

        Raises:
            StatementError: when a field has the wrong width or range.
        """
        _check_width(self.task, self.output)
        try:
            return _RESULT.pack(_RESULT_TAG, self.task, self.output, self.status)
        except struct.error as error:
            raise StatementError(f"status {self.status} is out of range ({error})") from None

    @classmethod
    def decode(cls, data: bytes) -> ResultStatement:
        """Reads what `encode` made.

        Raises:
            StatementError: when the bytes are no result statement.
        """
        if len(data) != RESULT_BYTES:
            raise StatementError(f"a result statement has {RESULT_BYTES} bytes, not {len(data)}")
        tag, task, output, status = _RESULT.unpack(data)
        if tag != _RESULT_TAG:
            raise StatementError("these bytes are no result statement")
        return cls(task, output, status)


def session_id(coordinator_nonce: bytes, node_nonce: bytes) -> SessionId:
    """The id of one life of one link; new whenever either side's nonce is new.

    Raises:
        StatementError: when a nonce is not 32 bytes.
    """
    _check_width(coordinator_nonce, node_nonce)
    return SessionId(hashlib.sha256(_SESSION_ID_TAG + coordinator_nonce + node_nonce).digest())


def session_statement(coordinator: bytes, node: bytes, session: bytes, ticket: bytes) -> bytes:
    """What a node signs to show that its key is alive on this link, now.

    Raises:
        StatementError: when a key or the session id is not 32 bytes.
    """
    _check_width(coordinator, node, session)
    return _SESSION_TAG + coordinator + node + session + hashlib.sha256(ticket).digest()


def enrolment_statement(
    coordinator: bytes,
    node: bytes,
    coordinator_nonce: bytes,
    node_nonce: bytes,
    name: str,
    software_version: str,
) -> bytes:
    """What a node proves, with its key and with the join secret, in order to be enrolled.

    Raises:
        StatementError: when a key or nonce is not 32 bytes, or the text has no UTF-8 form.
    """
    _check_width(coordinator, node, coordinator_nonce, node_nonce)
    fields = (_ENROLMENT_TAG, coordinator, node, coordinator_nonce, node_nonce)
    return b"".join((*fields, _text_digest(name), _text_digest(software_version)))


def manifest_statement(manifest_digest: bytes) -> bytes:
    """What a coordinator signs to say: this is the model that my network runs.

    Raises:
        StatementError: when the digest is not 32 bytes.
    """
    _check_width(manifest_digest)
    return _MANIFEST_TAG + manifest_digest


def ticket_statement(coordinator: bytes, node: bytes, expires_unix_s: int) -> bytes:
    """What a coordinator signs to let an enrolled node attach links until a time.

    Raises:
        StatementError: when a key is not 32 bytes, or the time is out of range.
    """
    _check_width(coordinator, node)
    try:
        return _TICKET.pack(_TICKET_TAG, coordinator, node, expires_unix_s)
    except struct.error as error:
        raise StatementError(f"a ticket cannot expire at {expires_unix_s} ({error})") from None


def tls_statement(coordinator: bytes, public_key_info_digest: bytes) -> bytes:
    """What a coordinator signs to say: this TLS key is mine.

    Args:
        coordinator: Its Ed25519 public key.
        public_key_info_digest: SHA-256 of the TLS key's SubjectPublicKeyInfo in DER.

    Raises:
        StatementError: when either is not 32 bytes.
    """
    _check_width(coordinator, public_key_info_digest)
    return _TLS_TAG + coordinator + public_key_info_digest


def _check_width(*fields: bytes) -> None:
    for field in fields:
        if len(field) != DIGEST_BYTES:
            raise StatementError(f"a field of {len(field)} bytes cannot be stated: want {DIGEST_BYTES}")


@lru_cache(maxsize=64)
def _text_digest(text: str) -> bytes:
    try:
        return hashlib.sha256(text.encode()).digest()
    except UnicodeEncodeError:
        raise StatementError("text with unpaired surrogates cannot be stated") from None
