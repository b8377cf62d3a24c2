"""Where a model hub may lead a node: to public addresses, and to what the contributor named; never further inside."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest

from folkmoot.node.sources.hub_address import HubAddressError, door_to, hub_url, is_public, next_url
from folkmoot.node.sources.weight_source import SourceLostError, SourceUnfitError

BASE = httpx.URL("https://hub.example/")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("127.8.9.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.1.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff0e::1", False),
        ("fec0::1", False),
        ("5f00::1", False),
        ("::127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b:1::a00:1", False),
        ("192.0.0.8", False),
        ("192.0.0.9", False),
        ("::ffff:192.0.0.8", False),
        ("::ffff:192.168.1.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:c0a8:101::1", False),
        ("2001::1", False),
        ("not an address", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("location", "what"),
    [
        ("http://cdn.example/file", "down to http"),
        ("ftp://cdn.example/file", "not http or https"),
        ("file:///etc/passwd", "not http or https"),
        ("https://user:word@cdn.example/file", "with a password"),
        ("https://[::1/file", "what is no address"),
    ],
)
def test_redirects_that_lead_nowhere_good(location: str, what: str) -> None:
    with pytest.raises(SourceUnfitError, match=what):
        next_url(httpx.URL("https://hub.example/owner/name"), location)


def test_a_relative_redirect_stays_with_the_host() -> None:
    assert str(next_url(httpx.URL("https://hub.example/a/b"), "/c?d=1")) == "https://hub.example/c?d=1"
    assert next_url(httpx.URL("http://hub.example/a"), "https://cdn.example/c").scheme == "https"


def names(monkeypatch: pytest.MonkeyPatch, **known: list[str]) -> None:
    """Lets the resolver know these hosts, all below `.example`, and no other."""

    def look_up(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        found = known.get(host.removesuffix(".example"))
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


async def test_a_public_host_is_connected_to_at_the_address_that_was_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names(monkeypatch, cdn=["93.184.216.34", "93.184.216.35"])
    door = await door_to(httpx.URL("https://cdn.example/file"), BASE, ())
    assert door.address == "93.184.216.34"


@pytest.mark.parametrize("addresses", [["192.168.0.1"], ["93.184.216.34", "127.0.0.1"], ["169.254.169.254"]])
async def test_a_host_with_a_private_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    names(monkeypatch, inner=addresses)
    with pytest.raises(SourceUnfitError, match="not in public"):
        await door_to(httpx.URL("https://inner.example/file"), BASE, ())
    trusted = await door_to(httpx.URL("https://inner.example/file"), BASE, ("inner.example",))
    assert trusted.address is None


async def test_the_hubs_own_address_may_be_anywhere_but_not_another_port_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = hub_url("http://127.0.0.1:8080/mirror")
    assert (await door_to(httpx.URL("http://127.0.0.1:8080/file"), base, ())).address is None
    with pytest.raises(SourceUnfitError, match="not in public"):
        await door_to(httpx.URL("http://127.0.0.1:22/file"), base, ())


async def test_an_unknown_host_may_be_known_later(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch)
    with pytest.raises(SourceLostError, match="is not found"):
        await door_to(httpx.URL("https://cdn.example/file"), BASE, ())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hub.example",
        "ftp://hub.example",
        "https://",
        "https://me:word@hub.example",
        "https://h.example/?a=b",
    ],
)
def test_settings_that_name_no_hub(text: str) -> None:
    with pytest.raises(HubAddressError):
        hub_url(text)


def test_a_hub_below_a_path_keeps_it() -> None:
    assert str(hub_url("https://hub.example/mirror").join("a/b")) == "https://hub.example/mirror/a/b"
