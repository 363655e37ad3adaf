"""Starts a gateway with something behind it for every call, and runs each driver in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.database import open_database
from tests.conformance.compiled_in import standing_in
from tests.conformance.registry import Client
from tests.harness import ROOT, add_account
from tests.journeys.real_upstreams import shop

TIMEOUT_SECONDS = 120
SMS_DELAY_SECONDS = 3.0
"""A client that is a process for each call has to buy and cancel within it, on a busy machine."""
BALANCE = "100.00"
_NODE_FLAGS = ("--no-warnings", "--experimental-detect-module")
"""One package is a module without saying so, which later versions of Node find out by themselves."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a client did: by call, empty where it went well and else why not. `skipped` says why it did not run."""

    version: str
    results: Mapping[str, str]
    skipped: str = ""
    output: str = ""

    def surprises(self, client: Client) -> dict[str, str]:
        """What went otherwise than its driver says: calls that failed, and faults it no longer has."""
        failed = {name: why for name, why in self.results.items() if why and name not in client.fails}
        mended = {
            name: "works, and its driver says it fails" for name in client.fails if not self.results.get(name, "-")
        }
        return failed | mended


@dataclass(frozen=True, slots=True)
class Place:
    """A running gateway, and a key for each client."""

    base: str
    keys: Mapping[str, str]
    directory: Path


@contextmanager
def place(clients: Iterable[Client]) -> Iterator[Place]:
    """A gateway process that buys from simulators, with an account for each client, whose books balance at the end."""
    with tempfile.TemporaryDirectory(prefix="simroute-conformance-") as name:
        directory = Path(name)
        with shop(directory, f"sqlite:///{directory}/simroute.db", SMS_DELAY_SECONDS) as found:
            keys = asyncio.run(_accounts(found.server.values, [client.name for client in clients]))
            yield Place(found.server.base, keys, directory)
            assert found.cli("ledger", "verify") == "ok\n"
        assert "Traceback" not in (directory / "log").read_text(encoding="utf-8")


async def _accounts(values: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    database = open_database(values)
    try:
        return {name: await add_account(database, name, BALANCE, is_demo=False) for name in names}
    finally:
        await database.store.close()


@dataclass(frozen=True, slots=True)
class Tools:
    """Where the clients are installed: an interpreter with PyPI's, a folder with npm's, and the versions of both."""

    python: str
    node_modules: Path | None
    versions: Mapping[str, str]


def tools(python: str, node_modules: Path | None = None) -> Tools:
    """What is installed there."""
    versions = {f"pypi:{name}": version for name, version in _installed(python).items()}
    for package in sorted(node_modules.glob("*/package.json")) if node_modules else ():
        stated = json.loads(package.read_text(encoding="utf-8"))
        versions[f"npm:{stated['name']}"] = stated["version"]
    return Tools(python, node_modules, versions)


def _installed(python: str) -> dict[str, str]:
    script = "import importlib.metadata as m; print(*(f'{d.name}={d.version}' for d in m.distributions()), sep='\\n')"
    listed = subprocess.run([python, "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout
    return {
        name.lower().replace("_", "-"): version for name, _, version in (row.partition("=") for row in listed.split())
    }


def run(client: Client, at: Place, with_: Tools) -> Outcome:
    """Runs one driver to its end, or to the time-out."""
    if missing := client.missing(with_.versions):
        return Outcome("", {}, missing)
    arguments = [at.base + client.path, at.base, at.keys[client.name]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NODE_PATH": str(with_.node_modules or "")}
    with ExitStack() as stack:
        if client.host:
            prefix = client.path.removesuffix("/stubs/handler_api.php")
            environment |= stack.enter_context(standing_in(client.host, at.base, prefix, at.directory))
        output, errors = _run([*_command(client, at.directory, with_), *arguments], environment)
    return Outcome(with_.versions.get(client.key, ""), _results(client, output, errors), output=output + errors)


def _run(command: list[str], environment: Mapping[str, str]) -> tuple[str, str]:
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        return done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        return _text(late.stdout), f"{_text(late.stderr)}\nno end in {TIMEOUT_SECONDS} seconds"


def run_all(clients: Iterable[Client], at: Place, with_: Tools, processes: int = 5) -> dict[str, Outcome]:
    """Runs several at a time; the outcomes by client's name."""
    found = list(clients)
    with ThreadPoolExecutor(processes) as pool:
        outcomes = pool.map(lambda one: run(one, at, with_), found)
        return dict(zip((client.name for client in found), outcomes, strict=True))


def _command(client: Client, directory: Path, with_: Tools) -> list[str]:
    driver = client.driver
    match driver.suffix:
        case ".py":  # as a module: its own name is that of the package it drives
            return [with_.python, "-m", f"tests.conformance.clients.{driver.stem}"]
        case ".js":
            return ["node", *_NODE_FLAGS, str(driver)]
        case ".c":
            program = directory / driver.stem
            subprocess.run(["cc", "-O1", "-Wall", "-o", str(program), str(driver)], check=True, timeout=60)
            return [str(program)]
        case suffix:
            return [{".php": "php", ".sh": "sh", ".java": "java"}[suffix], str(driver)]


def _results(client: Client, output: str, errors: str) -> dict[str, str]:
    """What its lines `ok CALL` and `no CALL WHY` say of the calls it has. A call without a line has failed."""
    said: dict[str, str] = {}
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        name, _, why = rest.partition(" ")
        if word in ("ok", "no"):
            said[name] = "" if word == "ok" else why or "failed"
    last = (errors.strip().splitlines() or ["no word of it"])[-1]
    return {name: said.get(name, f"not reached: {last}") for name in client.calls}


def _text(output: str | bytes | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
