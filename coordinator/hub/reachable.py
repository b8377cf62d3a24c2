"""The address that invites name when nobody said which.

Guarantees: nothing is sent to find it out, and it is never one that means every address.
"""

from __future__ import annotations

import ipaddress
import socket


def reachable_address(host: str) -> str:
    """The address under which others reach a socket that is bound to `host`."""
    try:
        everywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host
    if not everywhere:
        return host
    # Connecting a datagram socket sends nothing; it only asks the routing table which address would be used.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
