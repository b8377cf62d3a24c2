"""What runs Folkmoot elsewhere: each command in it is one that the command line takes, and files are what their readers take."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from folkmoot.cli.main import app
from folkmoot.coordinator.settings import CoordinatorSettings
from folkmoot.node.settings import NodeSettings
from folkmoot.settings_base import ComponentSettings

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*/*.service"))
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
TYPED = re.compile(r"(?<![\w-])folkmoot ((?:node|coordinator|model|ask|chat|status|log) [^;&|#\n]*)")
"""A command in a block of a page, up to its comment or the next one."""
ENV_PREFIXES: dict[str, type[ComponentSettings]] = {
    "FOLKMOOT_NODE_": NodeSettings,
    "FOLKMOOT_COORDINATOR_": CoordinatorSettings,
}


def check_command(arguments: list[str]) -> None:
    """Fails when the command line would not take these arguments."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("folkmoot", list(arguments))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    assert not context.args, context.args


def expanded(value: str) -> str:
    """What compose makes of a value when no variable is set."""
    return VARIABLE.sub(lambda found: found[2] or "", value)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services: dict[str, Any] = document["services"]
    assert set(services) == {"node", "coordinator"}
    for service in services.values():
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= set(document["volumes"])
    return services


def unit(path: Path) -> ConfigParser:
    parsed = ConfigParser(interpolation=None, strict=True)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(path.read_text())
    return parsed


def test_the_check_tells_right_commands_from_wrong_ones() -> None:
    check_command(["node", "start", "--memory", "1GiB"])
    with pytest.raises(typer.TyperException, match="--memmory"):
        check_command(["node", "start", "--memmory", "1GiB"])
    with pytest.raises(typer.TyperException, match="begin"):
        check_command(["node", "begin"])


def test_compose_starts_and_asks_after_what_there_is(services: dict[str, Any]) -> None:
    for service in services.values():
        check_command([expanded(word) for word in service["command"]])
        kind, program, *probe = service["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "folkmoot")
        check_command(probe)


def test_compose_sets_settings_that_there_are_to_values_that_are_taken(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in services.values():
        for variable, value in service["environment"].items():
            monkeypatch.setenv(variable, expanded(value))
            for prefix, settings in ENV_PREFIXES.items():
                if variable.startswith(prefix):
                    assert variable.removeprefix(prefix).lower() in settings.model_fields
    node = NodeSettings.load()
    assert (node.memory_bytes, node.disk_bytes, node.threads) == (4 << 30, 8 << 30, 2)
    assert (node.download_bytes_per_s, node.hours.stretches, node.public_name) == (0, (), "pseudonym")
    assert CoordinatorSettings.load(model=Path("x")).public_host == ""


def test_the_image_is_built_from_what_is_there() -> None:
    lines = (DEPLOY / "Dockerfile").read_text()
    check_command(yaml.safe_load(re.findall(r"^CMD (.*)$", lines, re.MULTILINE)[0]))
    pinned = re.findall(r'"(torch==[^"]+)"', (ROOT / "pyproject.toml").read_text())
    assert len(pinned) == 1
    assert pinned[0] in lines


@pytest.mark.parametrize("page", ["README.md", "docs/contributing.md", "docs/deploying.md"])
def test_what_pages_tell_people_to_type_is_taken(page: str) -> None:
    fences = re.findall(r"^```$(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    typed = [command for fence in fences for command in TYPED.findall(fence)]
    for command in typed:
        check_command(shlex.split(command))
    assert len(typed) > 2 or page == "docs/contributing.md"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_units_start_what_there_is_and_stop_where_it_is_no_use(path: Path) -> None:
    service = unit(path)["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert program.endswith("/bin/folkmoot")
    check_command(arguments)
    assert service["RestartPreventExitStatus"].split() == ["2", "3", "4"]
    assert service["NoNewPrivileges"] == "yes"
    assert "143" in service["SuccessExitStatus"].split()


@pytest.mark.parametrize(
    "path", [path for path in UNITS if path.parent.name == "system"], ids=lambda path: path.name
)
def test_systemd_takes_the_units_where_it_is_at_hand(path: Path, tmp_path: Path) -> None:
    """Elsewhere, that they are sections of settings, as the other tests read them, has to do."""
    text = path.read_text().replace("/opt/folkmoot/bin/folkmoot", "/bin/true")
    assert "/bin/true" in text
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    (tmp_path / path.name).write_text(text)
    ran = subprocess.run(
        [analyze, "verify", str(tmp_path / path.name)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
