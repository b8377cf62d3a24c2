"""The control socket from the outside: who runs, who may ask, long paths, and answers that are none."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from folkmoot.errors import CapacityError
from folkmoot.node.control import (
    ControlError,
    ControlFormError,
    NoNodeRunsError,
    NotYoursError,
    ask,
    runs,
)
from folkmoot.node.control_server import ControlServer
from folkmoot.state_lock import StateError


async def echo(request: Mapping[str, Any]) -> Any:
    return request["word"]


async def refuse(request: Mapping[str, Any]) -> Any:
    raise CapacityError("there is no room", advice="make some")


async def stumble(request: Mapping[str, Any]) -> Any:
    raise ValueError("a fault of ours")


HANDLERS = {"echo": echo, "refuse": refuse, "stumble": stumble}


async def test_answers_and_errors_come_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = ControlServer(tmp_path, HANDLERS)
    await server.start()
    try:
        assert await asyncio.to_thread(ask, tmp_path, "echo", word="\u00e9") == "\u00e9"
        assert await asyncio.to_thread(runs, tmp_path)
        with pytest.raises(ControlError, match="there is no room: make some") as refused:
            await asyncio.to_thread(ask, tmp_path, "refuse")
        assert refused.value.exit_code == CapacityError.exit_code
        with pytest.raises(ControlError, match="unexpected ValueError: a fault of ours") as fault:
            await asyncio.to_thread(ask, tmp_path, "stumble")
        assert fault.value.exit_code == 70
        assert "Traceback" in caplog.text
    finally:
        await server.stop()
    await server.stop()
    assert not runs(tmp_path)


async def test_a_folder_with_a_long_path_has_a_socket_too(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20) / ("longer" * 20)
    folder.mkdir(parents=True)
    server = ControlServer(folder, HANDLERS)
    await server.start()
    try:
        assert await asyncio.to_thread(ask, folder, "echo", word="here") == "here"
    finally:
        await server.stop()


async def test_what_a_killed_node_left_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "control.sock"))
    with pytest.raises(NoNodeRunsError, match="node start"):
        ask(tmp_path, "echo")
    server = ControlServer(tmp_path, HANDLERS)
    await server.start()
    assert await asyncio.to_thread(runs, tmp_path)
    await server.stop()


async def test_a_folder_that_takes_no_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="takes no control socket.*--state DIR"):
        await ControlServer(tmp_path / "missing", HANDLERS).start()


def test_another_users_node_is_told_from_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("folkmoot.node.control.socket_path", forbid)
    with pytest.raises(NotYoursError, match="another user's: .*sudo -u"):
        ask(tmp_path, "status")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", NoNodeRunsError),
        (b"nonsense\n", ControlFormError),
        (b"[]\n", ControlFormError),
        (b"{}\n", ControlFormError),
        (b'{"error": {}}\n', ControlFormError),
    ],
)
def test_an_answer_that_is_none_is_named(tmp_path: Path, answer: bytes, kind: type[Exception]) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()

        def reply() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(kind):
            ask(tmp_path, "status")
        thread.join()
