"""A redirect to a public host is connected to at the address that was looked at, under the host's own name and certificate."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from folkmoot.node.sources import hub_address
from folkmoot.node.sources.hub import ModelHub
from folkmoot.node.sources.hub_address import HubAddressError
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.published_experts import (
    OwnCoordinator,
    check,
    downloader,
    hub_at,
    hub_files,
    outcomes,
)
from folkmoot.tests.support.range_server import Fault, Script, range_server
from folkmoot.trust.keys import Identity
from folkmoot.trust.tls import TLS_NAME, TlsIdentity


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every name but addresses leads to loopback, which counts as public; what was looked up."""
    names: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *arguments: Any, **keywords: Any) -> list[Any]:
        if host == "127.0.0.1":
            return list(real(host, port, *arguments, **keywords))
        names.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(hub_address, "is_public", lambda address: address == "127.0.0.1")
    return names


async def test_the_name_is_looked_up_once_and_told_to_the_server(
    experts: BareExperts, tmp_path: Path, looked_up: list[str]
) -> None:
    with range_server(hub_files(experts)) as store:
        leads_to = store.address.replace("127.0.0.1", "cdn.example")
        with range_server({}, Script(Fault.REDIRECTS, leads_to=leads_to)) as hub_server:
            async with hub_at(hub_server.address) as hub:
                source = downloader(experts, tmp_path / "store", hub)
                check(experts, await outcomes(source, experts.keys))
    assert looked_up == ["cdn.example"]
    hosts = {request.headers["Host"] for request in store.asked}
    assert hosts == {leads_to.removeprefix("http://")}


@pytest.mark.parametrize("name", [TLS_NAME, "another.example"])
async def test_the_certificate_must_be_that_of_the_name(
    name: str, experts: BareExperts, tmp_path: Path, looked_up: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = TlsIdentity.generate(Identity.generate())
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(certificate.certificate_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with range_server(hub_files(experts), certificate=certificate) as store:
        leads_to = store.address.replace("127.0.0.1", name)
        with range_server({}, Script(Fault.REDIRECTS, leads_to=leads_to)) as hub_server:
            async with hub_at(hub_server.address) as hub:
                own = OwnCoordinator(experts)
                source = downloader(experts, tmp_path / "store", hub, own)
                check(experts, await outcomes(source, experts.keys))
    assert bool(own.asked) == (name != TLS_NAME)
    assert bool(store.asked) == (name == TLS_NAME)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("https://hub.example", True),
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:8080", True),
        ("http://localhost:8080", True),
        ("http://hub.example", False),
        ("http://192.168.1.7", False),
    ],
)
def test_a_token_does_not_cross_a_network_in_the_open(address: str, allowed: bool) -> None:
    assert ModelHub(address).name
    if allowed:
        assert ModelHub(address, token="secret").name
    else:
        with pytest.raises(HubAddressError, match="in the open"):
            ModelHub(address, token="secret")
