"""The public log of a whole coordinator: real nodes stand in it, and a visitor finds that it only grew over a restart; that of
another coordinator in the same place is caught."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from folkmoot.cli.main import run
from folkmoot.tests.support.prepared_models import TinyModels
from folkmoot.tests.support.whole_network import whole_network
from folkmoot.trust.checkpoints import named_log_key
from folkmoot.trust.invite import Invite
from folkmoot.trust.keys import fingerprint


async def test_enrolments_are_public_and_stay(
    models: TinyModels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = 0
    sizes = []
    for life in range(3):
        prepared = models.get("mixtral").prepared
        async with whole_network(prepared, tmp_path, nodes=1, api_port=port) as network:
            url, invite = network.coordinator.api_url, network.coordinator.invite
            port = int(url.rsplit(":", 1)[1])
            arguments = ["log", "verify", url, "--state", str(tmp_path / "visits"), "--json"]
            code = await asyncio.to_thread(run, arguments)
        document = json.loads(capsys.readouterr().out)
        assert code == (1 if life == 2 else 0)
        sizes.append(document["size"])
        key = named_log_key(document["checkpoint"].encode()).key
        assert fingerprint(key.raw) == Invite.parse(invite).fingerprint
        if life == 1:
            # The operator begins the log anew, as if nothing had been.
            shutil.rmtree(tmp_path / "operator" / "log")
    assert sizes == [1, 2, 1]
