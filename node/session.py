"""One life of a link, as far as statements and caps depend on it.

Guarantees: a session exists only with caps that this version of the protocol allows.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import WireError
from ..ids import SessionId
from ..protos.folkmoot.v1 import link_pb2
from ..protos.limits import MAX_ROWS_PER_FRAME
from ..trust.keys import Identity


class SessionError(WireError):
    """A coordinator welcomes a node in terms that make no sense."""


@dataclass(frozen=True)
class Session:
    """What every frame and result of one link is bound to.

    Attributes:
        identity: The node's.
        coordinator_key: The coordinator's Ed25519 public key, which the invite pins.
        session: The id made from both sides' nonces.
        manifest_digest: The model that the coordinator runs.
        max_rows_in_flight: Rows of all frames that have no answer yet.
        max_rows_per_frame: Rows of one frame.
    """

    identity: Identity
    coordinator_key: bytes
    session: SessionId
    manifest_digest: bytes
    max_rows_in_flight: int
    max_rows_per_frame: int

    @classmethod
    def of(
        cls, identity: Identity, coordinator_key: bytes, session: SessionId, welcome: link_pb2.Welcome
    ) -> Session:
        """The session that a coordinator's welcome opens.

        Raises:
            SessionError: when its caps let no frame through.
        """
        if welcome.max_rows_per_frame < 1 or welcome.max_rows_in_flight < welcome.max_rows_per_frame:
            raise SessionError(
                f"the coordinator allows {welcome.max_rows_in_flight} rows in flight and "
                f"{welcome.max_rows_per_frame} in a frame"
            )
        return cls(
            identity=identity,
            coordinator_key=coordinator_key,
            session=session,
            manifest_digest=welcome.manifest_digest,
            max_rows_in_flight=welcome.max_rows_in_flight,
            max_rows_per_frame=min(welcome.max_rows_per_frame, MAX_ROWS_PER_FRAME),
        )
