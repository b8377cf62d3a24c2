"""What both ends of the wire agree on without saying it: caps, keepalive, channel options.

Guarantees: client and server are given the same message caps, never unlimited ones; a node that goes quiet is noticed
within `KEEPALIVE_TIME_MS + KEEPALIVE_TIMEOUT_MS`, and a server tolerates the pings that our clients send.
"""

from __future__ import annotations

from typing import Final

MAX_MESSAGE_BYTES: Final = 64 << 20
"""No message is larger, in either direction."""
MAX_TENSOR_BYTES: Final = 56 << 20
"""The largest tensor of rows in a frame or result; what a message has left holds the routing."""
MAX_ROWS_PER_FRAME: Final = 1024
MAX_PAIRS_PER_FRAME: Final = 128 * MAX_ROWS_PER_FRAME
"""Row and expert pairs in one frame: as if each row went to 128 experts of one node."""
MAX_OPENED_ROWS: Final = 64
"""Rows that one challenge may ask for."""
MAX_OPENED_PAIRS: Final = 1024
"""Row and expert pairs that one challenge may ask for; as with rows, fewer where experts are wide: `opened_pairs`."""
MAX_CHALLENGED_ROWS_IN_FLIGHT: Final = 256
"""Rows of all challenges that a node has not answered; counted beside those of frames, which challenges never crowd out."""
MAX_ACTIVATION: Final = 1e12
"""No model has activations near it. Rows with larger ones, finite though they are, lead to numbers that leave float32's range inside an
expert or in the trunk: coordinators send none and use none, and nodes neither compute nor sign them."""
CHUNK_BYTES: Final = 256 << 10
"""The most that one chunk of a manifest or expert blob carries."""
MAX_NAME: Final = 64
"""Characters in a node's name."""
MAX_REASON: Final = 512
"""Characters of a peer's free text that are kept."""
NONCE_BYTES: Final = 32

KEEPALIVE_TIME_MS: Final = 20_000
KEEPALIVE_TIMEOUT_MS: Final = 10_000
MIN_PING_INTERVAL_MS: Final = 10_000
"""Pings more frequent than this make a server hang up; below `KEEPALIVE_TIME_MS`, so ours never do."""

ChannelOptions = list[tuple[str, str | int]]

_BOTH_ENDS: Final[ChannelOptions] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


def rows_per_frame(hidden: int) -> int:
    """How many float32 rows of this width one frame or result may carry: at least one, at most `MAX_ROWS_PER_FRAME`."""
    return max(1, min(MAX_ROWS_PER_FRAME, MAX_TENSOR_BYTES // (4 * hidden)))


def opened_pairs(intermediate: int) -> int:
    """How many pairs of experts this wide one challenge may ask for: its two float32 tensors must fit one message."""
    return max(1, min(MAX_OPENED_PAIRS, MAX_TENSOR_BYTES // (2 * 4 * intermediate)))


def channel_options(tls_name: str | None = None) -> ChannelOptions:
    """Options of a node's channel.

    Args:
        tls_name: The name that the server's certificate must have, when the channel is pinned to that certificate.
    """
    options = [
        *_BOTH_ENDS,
        # A proxy named in the environment would end the stream's TLS, or drop what is quiet for a minute.
        ("grpc.enable_http_proxy", 0),
        # Channels share connections by address; a pinned one must never ride on another's.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return options if tls_name is None else [*options, ("grpc.ssl_target_name_override", tls_name)]


def server_options() -> ChannelOptions:
    """Options of a coordinator's server."""
    return [
        *_BOTH_ENDS,
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        # Without this a second coordinator would silently share the port instead of being told that it is in use.
        ("grpc.so_reuseport", 0),
    ]
