"""`compose.yaml` starts what it says: no container engine runs here, but its parts can be held against the program."""

from __future__ import annotations

import shlex
from typing import Any

import click
import pytest
import yaml

from gateway.cli import main
from tests.harness import ROOT

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS: dict[str, dict[str, Any]] = {
    name: service for name, service in COMPOSE["services"].items() if service.get("build") == "."
}


def _command(service: dict[str, Any]) -> list[str]:
    default = next(line for line in DOCKERFILE.splitlines() if line.startswith("CMD "))
    return list(service.get("command") or yaml.safe_load(default.removeprefix("CMD ")))


def test_two_gateways_and_a_worker_share_postgresql_and_redis() -> None:
    verbs = sorted(_command(service)[1] for service in OURS.values())
    assert verbs == ["serve", "serve", "worker"]
    for service in OURS.values():
        values = service["environment"]
        assert values["DATABASE_URL"].startswith("postgresql://simroute@postgres:")
        assert values["REDIS_URL"].startswith("redis://redis:")
        assert set(service["depends_on"]) == {"postgres", "redis"} <= set(COMPOSE["services"])
        assert service["env_file"] == "simroute.env"  # secrets stand nowhere in here


@pytest.mark.parametrize("name", OURS)
def test_backups_are_kept_in_a_volume_that_the_program_may_write_to(name: str) -> None:
    directory = OURS[name]["environment"]["BACKUP_DIRECTORY"]
    volumes = dict(volume.split(":")[:2] for volume in OURS[name]["volumes"])
    place = next(source for source, target in volumes.items() if target == directory)
    assert place in COMPOSE["volumes"]
    made = next(line for line in DOCKERFILE.splitlines() if "install -d -o simroute" in line)
    assert directory in made.split()


@pytest.mark.parametrize("name", OURS)
def test_a_command_is_one_that_the_program_has(name: str) -> None:
    program, verb, *arguments = _command(OURS[name])
    assert program == "/app/.venv/bin/simroute"
    main.commands[verb].make_context(verb, arguments, obj=None)


def test_the_lines_in_its_head_are_commands_of_the_program() -> None:
    text = (ROOT / "compose.yaml").read_text()
    lines = [line.partition("bin/simroute ")[2] for line in text.splitlines() if "bin/simroute " in line]
    assert lines
    for line in lines:
        group, verb, *arguments = shlex.split(line)
        found = main.commands[group]
        assert isinstance(found, click.Group)
        found.commands[verb].make_context(verb, arguments, obj=None, resilient_parsing=True)
