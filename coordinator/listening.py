"""Where a coordinator listens, and what it says when it cannot.

Guarantees: a port that another program has, an address that this machine does not have, a name that nobody knows, and a
port that the system keeps for itself are four errors, each of which names the flag to change.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from ..errors import FolkmootError, UnavailableError, UsageError

BACKLOG = 512


class PortInUseError(UnavailableError):
    """Another program has the port."""


class ListenAddressError(UsageError):
    """Nothing of this machine can listen at this address."""


@dataclass(frozen=True, slots=True)
class Door:
    """One of the two ways into a coordinator.

    Attributes:
        name: As errors call it.
        host_flag, port_flag: How its address and port are named on the command line.
        host_hint: What else there is to know about its address.
    """

    name: str
    host_flag: str
    port_flag: str
    host_hint: str = ""

    def open(self, host: str, port: int) -> socket.socket:
        """Listens; a name that stands for several addresses means its first IPv4 address, if it has any.

        Raises:
            PortInUseError: when another program has the port.
            ListenAddressError: when nothing can listen there at all.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
            return socket.create_server(address, family=family, backlog=BACKLOG)
        except (OSError, UnicodeError) as error:
            raise self._cannot(host, port, error) from error

    def check(self, host: str, port: int) -> None:
        """Returns when `open` would have listened; the port is free again.

        Raises:
            PortInUseError, ListenAddressError: as `open`.
        """
        self.open(host, port).close()

    def in_use(self, host: str, port: int) -> PortInUseError:
        """The error of a port that another program has."""
        return PortInUseError(
            f"{self.name} cannot listen on {host} port {port}: another program uses it",
            advice=f"name another with {self.port_flag}, or 0 for any free one",
        )

    def _cannot(self, host: str, port: int, error: OSError | UnicodeError) -> FolkmootError:
        where = f"{self.name} cannot listen on {host} port {port}"
        elsewhere = f"name an address of this machine with {self.host_flag}{self.host_hint}"
        if isinstance(error, UnicodeError | socket.gaierror):
            return ListenAddressError(f"{where}: no address is known by this name", advice=elsewhere)
        match error.errno:
            case errno.EADDRINUSE:
                return self.in_use(host, port)
            case errno.EACCES | errno.EPERM:
                return ListenAddressError(
                    f"{where}: the system keeps this port for itself",
                    advice=f"name one from 1024 on with {self.port_flag}",
                )
            case errno.EADDRNOTAVAIL:
                return ListenAddressError(
                    f"{where}: this machine does not have this address", advice=elsewhere
                )
        # The library says once more in brackets what we say before it.
        reason = (error.strerror or str(error)).partition(" (")[0]
        return ListenAddressError(f"{where} ({reason})", advice=elsewhere)


NODES_DOOR = Door(
    "the coordinator", "--host", "--port", ", or 0.0.0.0 for all; what invites hold is --public-host"
)
API_DOOR = Door("the API", "--api-host", "--api-port", ", or 0.0.0.0 for all")
