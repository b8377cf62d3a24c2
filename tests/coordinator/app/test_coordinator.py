"""Starting and stopping a coordinator: ports, keys, signatures, settings, and what is left behind when something is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from folkmoot.cli.main import run as command
from folkmoot.coordinator.api.settings import ApiSettings
from folkmoot.coordinator.app import (
    Coordinator,
    ManifestSignatureError,
    NotStartedError,
    check_signature,
    run,
)
from folkmoot.coordinator.generation_defaults import api_settings
from folkmoot.coordinator.listening import PortInUseError
from folkmoot.coordinator.settings import CoordinatorSettings
from folkmoot.errors import UsageError
from folkmoot.models.prepared import ManifestSignature, NotPreparedError, PreparedModel, write_signature
from folkmoot.settings_base import SettingsError
from folkmoot.state_lock import StateInUseError
from folkmoot.tests.support.prepared_models import TinyModels
from folkmoot.tests.support.whole_network import coordinator_settings
from folkmoot.trust.invite import Invite
from folkmoot.trust.keys import Identity
from folkmoot.trust.statements import manifest_statement


async def test_run_announces_serves_and_stops_when_cancelled(models: TinyModels, tmp_path: Path) -> None:
    announced: asyncio.Future[Coordinator] = asyncio.get_running_loop().create_future()
    settings = coordinator_settings(models.get("mixtral").prepared, tmp_path)
    running = asyncio.create_task(run(settings, announced.set_result))
    coordinator = await announced
    url, invite = coordinator.api_url, Invite.parse(coordinator.invite)
    assert invite.host == "127.0.0.1"
    assert invite.port == coordinator.hub.port
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        reply = await client.get("/v1/models")
        assert reply.json()["data"][0]["id"] == models.get("mixtral").prepared.name
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for port in (invite.port, int(url.rsplit(":", 1)[1])):
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
    with pytest.raises(NotStartedError):
        _ = coordinator.api_url


async def test_identity_and_invite_survive_a_restart(models: TinyModels, tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        coordinator = Coordinator(coordinator_settings(models.get("mixtral").prepared, tmp_path))
        await coordinator.open()
        invite = Invite.parse(coordinator.invite)
        seen.append((invite.fingerprint, invite.join_secret))
        await coordinator.stop()
    assert seen[0] == seen[1]
    for name in ("identity.key", "join.secret", "tls.pem"):
        assert (tmp_path / "operator" / name).stat().st_mode & 0o777 == 0o600


async def test_two_coordinators_cannot_share_a_state_folder(models: TinyModels, tmp_path: Path) -> None:
    settings = coordinator_settings(models.get("mixtral").prepared, tmp_path)
    first, second = Coordinator(settings), Coordinator(settings)
    await first.open()
    try:
        with pytest.raises(
            StateInUseError, match=f"another coordinator \\(process {os.getpid()}\\).*--state DIR"
        ):
            await second.start()
    finally:
        await first.stop()
    await second.open()
    await second.stop()


async def test_the_operator_can_work_on_the_state_of_a_coordinator_that_runs(
    models: TinyModels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = models.get("mixtral")
    coordinator = Coordinator(coordinator_settings(tiny.prepared, tmp_path))
    state = ["--state", str(tmp_path / "operator")]
    node = "ab" * 32
    await coordinator.open()
    try:
        for order in ("ban", "quarantine", "admit"):
            assert await asyncio.to_thread(command, ["coordinator", order, node, *state]) == 0
            assert capsys.readouterr().out == f"{order} {node}: done\n"
        prepare = ["model", "prepare", str(tiny.checkpoint), "--out", str(tmp_path / "again"), *state]
        assert await asyncio.to_thread(command, prepare) == 0
    finally:
        await coordinator.stop()


async def test_ports_in_use_are_one_clear_error_and_leave_nothing(models: TinyModels, tmp_path: Path) -> None:
    prepared = models.get("mixtral").prepared
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=str(port)) as hub_error:
            await Coordinator(coordinator_settings(prepared, tmp_path, port=port)).start()
        assert "--port" in hub_error.value.advice
        with pytest.raises(PortInUseError, match=str(port)) as api_error:
            await Coordinator(coordinator_settings(prepared, tmp_path, api_port=port)).start()
        assert "--api-port" in api_error.value.advice


async def test_no_such_model(models: TinyModels, tmp_path: Path) -> None:
    settings = coordinator_settings(models.get("mixtral").prepared, tmp_path, model=tmp_path / "nothing")
    with pytest.raises(NotPreparedError) as caught:
        await Coordinator(settings).start()
    assert "prepare" in caught.value.advice


def copy_with_signature(models: TinyModels, folder: Path, signature: Any) -> PreparedModel:
    source = models.get("mixtral").prepared
    shutil.copytree(source.folder, folder)
    write_signature(folder / "manifest.sig", source.manifest.digest, signature(source.manifest.digest))
    return PreparedModel.open(folder)


def test_the_manifests_signature_is_checked(models: TinyModels, tmp_path: Path) -> None:
    identity, other = Identity.generate(), Identity.generate()
    good = copy_with_signature(
        models,
        tmp_path / "good",
        lambda digest: ManifestSignature(identity.public, identity.sign(manifest_statement(digest))),
    )
    check_signature(good)
    for name, wrong in {
        "key": lambda digest: ManifestSignature(other.public, identity.sign(manifest_statement(digest))),
        "bytes": lambda digest: ManifestSignature(identity.public, identity.sign(digest)),
        "weak": lambda digest: ManifestSignature(b"\x01" + bytes(31), bytes(64)),
        "empty": lambda digest: ManifestSignature(identity.public, b""),
    }.items():
        with pytest.raises(ManifestSignatureError):
            check_signature(copy_with_signature(models, tmp_path / name, wrong))


def test_flag_over_environment_over_file_over_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOLKMOOT_HOME", str(tmp_path))
    (tmp_path / "coordinator.toml").write_text(
        'port = 1\nreplicas = 3\napi_host = "::1"\n[engine]\nlanes = 2\n'
    )
    monkeypatch.setenv("FOLKMOOT_COORDINATOR_PORT", "2")
    monkeypatch.setenv("FOLKMOOT_COORDINATOR_API_PORT", "4")
    monkeypatch.setenv("FOLKMOOT_COORDINATOR_ENGINE__MAX_RUNNING", "7")
    settings = CoordinatorSettings.load(model=Path("m"), api_port=3, host=None)
    assert (settings.port, settings.api_port, settings.replicas, settings.api_host) == (2, 3, 3, "::1")
    assert (settings.engine.lanes, settings.engine.max_running) == (2, 7)
    assert settings.hub.port == 2
    assert settings.hub.replicas == 3
    assert settings.state_dir == tmp_path / "operator"
    assert settings.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({}, "model"),
        ({"model": Path("m"), "port": 70000}, "port"),
        ({"model": Path("m"), "frame_deadline_s": 0}, "frame_deadline_s"),
        ({"model": Path("m"), "no_such": 1}, "no_such"),
    ],
)
def test_a_wrong_setting_is_named(flags: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        CoordinatorSettings.load(**flags)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLKMOOT_HOME", str(tmp_path))
    (tmp_path / "coordinator.toml").write_text("port = = 1")
    with pytest.raises(SettingsError, match="coordinator.toml"):
        CoordinatorSettings.load(model=Path("m"))


def test_an_engine_setting_that_makes_no_sense_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLKMOOT_COORDINATOR_ENGINE__LANES", "0")
    with pytest.raises(UsageError, match="lanes"):
        CoordinatorSettings.load(model=Path("m"))


def test_a_variable_that_cannot_be_read_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLKMOOT_COORDINATOR_ENGINE", "{lanes")
    with pytest.raises(SettingsError, match="engine"):
        CoordinatorSettings.load(model=Path("m"))


def test_the_models_advice_for_sampling(tmp_path: Path) -> None:
    def advised(document: object) -> ApiSettings:
        (tmp_path / "generation_config.json").write_text(json.dumps(document))
        return api_settings(None, tmp_path)

    assert api_settings(None, tmp_path / "nothing") == ApiSettings()
    assert advised({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20}) == ApiSettings(
        default_temperature=0.6, default_top_p=0.9, default_top_k=20
    )
    assert advised({"temperature": 0.6}) == ApiSettings()
    assert advised({"do_sample": True, "temperature": 99, "top_p": "x"}) == ApiSettings()
    assert advised([1, 2]) == ApiSettings()
    chosen = ApiSettings(default_temperature=0.1)
    assert api_settings(chosen, tmp_path) is chosen
