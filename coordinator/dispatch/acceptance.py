"""What stands between a node's answer and its use.

Guarantees: `accept` returns only an output of exactly the shape that was asked for, of finite float32 numbers that a step
survives, that the node's key signed for exactly this task; whatever else comes raises an error of its own class, and nothing
is computed with it. Because the statement binds coordinator, node, session, sequence, manifest, profile, layer, routing, input and
deadline, a signature that was given for anything else is a bad one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import FolkmootError, WireError
from ...protos.codec import (
    TensorDataError,
    TensorDtypeError,
    TensorLengthError,
    TensorRankError,
    TensorShapeError,
    TensorTooLargeError,
    decode_tensor,
    raw_bytes,
)
from ...protos.folkmoot.v1 import link_pb2
from ...protos.limits import MAX_ACTIVATION
from ...trust.keys import BadSignatureError, MissingSignatureError, VerifyingKey
from ...trust.statements import ResultStatement, TaskStatement, tensor_digest

STATUS_OK = 0


class NotFiniteError(WireError):
    """A result holds NaN or infinity, or numbers that no step survives."""


REASONS: dict[type[FolkmootError], str] = {
    MissingSignatureError: "signature_missing",
    BadSignatureError: "signature_wrong",
    NotFiniteError: "not_finite",
    TensorDtypeError: "dtype",
    TensorRankError: "rank",
    TensorShapeError: "shape",
    TensorTooLargeError: "too_large",
    TensorLengthError: "length",
    TensorDataError: "data",
}
"""The metrics' label for each way in which a result can be wrong."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The answer that one frame must have.

    Attributes:
        task: The statement of the frame that was sent.
        key: The node's.
    """

    task: TaskStatement
    key: VerifyingKey


@dataclass(frozen=True, slots=True, eq=False)
class Accepted:
    """A result that may be used.

    Attributes:
        output: [R, H] float32.
        statement: What the node signed.
    """

    output: torch.Tensor
    statement: ResultStatement


def read(result: link_pb2.Result, rows: int, hidden: int) -> torch.Tensor:
    """What a result holds, [rows, hidden] float32, once it can be computed with; whose it is, is not known yet.

    Raises:
        TensorError: the output has a wrong dtype, rank, shape, stated length or real length.
        NotFiniteError: it holds NaN, infinity, or numbers beyond `MAX_ACTIVATION`.
    """
    output = decode_tensor(
        result.output, dtype=torch.float32, shape=(rows, hidden), max_bytes=4 * rows * hidden, what="result"
    )
    if not float(output.abs().max()) <= MAX_ACTIVATION:  # a NaN is the maximum, and not at most anything
        raise NotFiniteError(
            "the result holds numbers that are not finite, or so large that a step would overflow"
        )
    return output


def check(result: link_pb2.Result, output: torch.Tensor, expected: Expected) -> ResultStatement:
    """What the node signed, once the result is known to be its answer to this task.

    Args:
        result: What came.
        output: What `read` found in it.
        expected: The answer that the frame must have.

    Raises:
        SignatureError: the signature is missing, or is not this node's over this task and output.
    """
    digest = tensor_digest(result.output.dtype, tuple(output.shape), raw_bytes(output))
    return _check(result, digest, expected)


def check_unread(result: link_pb2.Result, expected: Expected) -> ResultStatement:
    """The same of a result that `read` refused for its numbers alone.

    Raises:
        SignatureError: as `check` does.
    """
    shape = (expected.task.rows, expected.task.hidden)
    return _check(result, tensor_digest(result.output.dtype, shape, result.output.data), expected)


def _check(result: link_pb2.Result, digest: bytes, expected: Expected) -> ResultStatement:
    statement = ResultStatement(expected.task.digest(), digest, STATUS_OK)
    expected.key.verify(result.signature, statement.encode())
    return statement


def accept(result: link_pb2.Result, expected: Expected) -> Accepted:
    """What a result says, once it is known to be the node's answer to this task.

    Raises:
        TensorError, NotFiniteError: as `read` does.
        SignatureError: as `check` does.
    """
    output = read(result, expected.task.rows, expected.task.hidden)
    return Accepted(output, check(result, output, expected))


def reason_of(error: FolkmootError) -> str:
    """The metrics' label for the error that `accept` raised."""
    return REASONS[type(error)]
