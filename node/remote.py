"""The errors of a coordinator's answers, by what they mean to a node.

Guarantees: what gRPC reports becomes one of three errors: the node was refused and coming back will not help; its ticket
was refused and enrolling again will help; or the coordinator is not to be had now, and trying later may help.
"""

from __future__ import annotations

import grpc

from ..errors import TrustError, UnavailableError
from ..protos.limits import MAX_REASON


class NodeRefusedError(TrustError):
    """The coordinator refuses this node for good."""


class TicketRefusedError(UnavailableError):
    """The coordinator does not take the node's ticket any more: it has to enrol again."""


class CoordinatorLostError(UnavailableError):
    """The coordinator does not answer, or stopped to."""


_FOR_GOOD = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT})


def named(
    error: grpc.aio.AioRpcError, what: str
) -> NodeRefusedError | TicketRefusedError | CoordinatorLostError:
    """What a failed call means.

    Args:
        error: What gRPC reports.
        what: What went wrong with it, in the words of the error.
    """
    details = readable(error.details() or "")
    code = error.code()
    said = f"{what}: {details or code.name.lower().replace('_', ' ')}"
    if code in _FOR_GOOD:
        return NodeRefusedError(said, advice="ask the operator for a current invite")
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return TicketRefusedError(said)
    return CoordinatorLostError(said)


def readable(text: str) -> str:
    """A peer's free text as one bounded line that can be printed."""
    line = " ".join(text[: 2 * MAX_REASON].split())
    return "".join(character if character.isprintable() else "?" for character in line)[:MAX_REASON]
