"""Why a coordinator cannot listen: each cause is told from the others, with the flag to change and the exit code of its family."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from folkmoot.coordinator.http_server import HttpServer
from folkmoot.coordinator.listening import API_DOOR, NODES_DOOR, ListenAddressError, PortInUseError


def test_a_port_that_another_program_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            PortInUseError, match=f"the API .*127.0.0.1 port {port}: another program"
        ) as caught:
            HttpServer("127.0.0.1", port)
    assert "--api-port" in caught.value.advice
    assert caught.value.exit_code == 7
    API_DOOR.check("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("192.0.2.1", "this machine does not have this address"),
        (f"{'x' * 70}.example", "no address is known by this name"),
        ("fe80::1", ""),
    ],
)
def test_an_address_that_is_not_this_machines(host: str, said: str) -> None:
    with pytest.raises(ListenAddressError, match=f"the API cannot listen on {host} port 0.*{said}") as caught:
        HttpServer(host, 0)
    assert "--api-host" in caught.value.advice
    assert "attempting" not in caught.value.message
    assert caught.value.exit_code == 2


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ListenAddressError, match="listen on moot.example port 7440: no address is known"):
        NODES_DOOR.check("moot.example", 7440)


def test_a_port_that_the_system_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> socket.socket:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(ListenAddressError, match="keeps this port") as caught:
        NODES_DOOR.check("127.0.0.1", 80)
    assert "1024 on with --port" in caught.value.advice


def test_a_name_listens_on_its_ipv4_address(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with API_DOOR.open("localhost", 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
