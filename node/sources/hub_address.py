"""Which addresses a node may be led to when it asks a model hub.

Guarantees, all of them decided before a byte is sent: the first request goes to the address that the contributor set and to
no other, for no message of a coordinator names a host. From there a hub may send a node on only to http or https, never from
https down to http, never with a user or password in the address; and, but for the hub's own address and hosts that the
contributor named, only to addresses of the public internet. Where a name has several addresses all must be public, and the
one that was looked at is the one that is connected to.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass

import httpx

from ...errors import UsageError
from .weight_source import SourceLostError, SourceUnfitError

_PORTS = {"http": 80, "https": 443}
_PUBLIC = ipaddress.ip_network("2000::/3")
"""What of IPv6 is given out to be public at all; which addresses elsewhere are not, differs between versions of Python."""
_PROTOCOLS = ipaddress.ip_network("192.0.0.0/24")
"""Addresses that only have a meaning within a protocol (RFC 6890)."""
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 addresses as networks that speak only IPv6 write them (RFC 6052)."""


class HubAddressError(UsageError):
    """What the settings name as a model hub is no address of one."""


@dataclass(frozen=True)
class Door:
    """Where to connect to: the host's name, and, where names are not trusted, the address that was looked at."""

    url: httpx.URL
    address: str | None = None


def hub_url(text: str) -> httpx.URL:
    """A hub's address from the settings.

    Raises:
        HubAddressError: when it is not http or https to a host, or has more than a path after it.
    """
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise HubAddressError(f"{text!r} is no address of a model hub ({error})") from error
    if url.scheme not in _PORTS or not url.host:
        raise HubAddressError(f"{text!r} is no address of a model hub", advice="write it like https://HOST")
    if url.userinfo or url.query or url.fragment:
        raise HubAddressError(
            f"a model hub's address has a host and perhaps a path, nothing else: {url.scheme}://{url.host}",
            advice="give a token in the setting hub_token",
        )
    return url.copy_with(path=url.path.rstrip("/") + "/")


def origin(url: httpx.URL) -> tuple[str, str, int]:
    """Scheme, host and port: whom a URL speaks to."""
    return url.scheme, url.host, url.port or _PORTS.get(url.scheme, 0)


def next_url(current: httpx.URL, location: str) -> httpx.URL:
    """Where a redirect leads.

    Raises:
        SourceUnfitError: when it is no place to go to.
    """
    try:
        target = current.join(location)
    except httpx.InvalidURL:
        raise SourceUnfitError("it sends nodes on to what is no address") from None
    if target.scheme not in _PORTS or not target.host:
        raise SourceUnfitError(f"it sends nodes on to a place that is not http or https: {target.scheme}")
    if current.scheme == "https" and target.scheme != "https":
        raise SourceUnfitError(f"it sends nodes from https down to http, at {target.host}")
    if target.userinfo:
        raise SourceUnfitError(f"it sends nodes on to {target.host} with a password in the address")
    return target


async def door_to(target: httpx.URL, base: httpx.URL, trusted_hosts: Collection[str]) -> Door:
    """How to connect to where a hub sent this node.

    Args:
        target: Where to.
        base: The hub's own address.
        trusted_hosts: Hosts that the contributor named, to which it may lead wherever they are.

    Raises:
        SourceUnfitError: when it lies in a private network, or on this machine.
        SourceLostError: when the name is not known.
    """
    if origin(target) == origin(base) or target.host in trusted_hosts:
        return Door(target)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            target.host, origin(target)[2], type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise SourceLostError(f"the host {target.host} is not found ({error})") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not is_public(address):
            raise SourceUnfitError(f"it sends nodes on to {target.host}, which is {address}: not in public")
    if not addresses:
        raise SourceLostError(f"the host {target.host} has no address")
    return Door(target, addresses[0])


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, and to one machine there."""
    try:
        number = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(number, ipaddress.IPv6Address):
        inner = number.ipv4_mapped or number.sixtofour
        if inner is None and number in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if number not in _PUBLIC or number.teredo is not None:
            return False
    elif number in _PROTOCOLS:
        return False
    return number.is_global and not number.is_multicast
