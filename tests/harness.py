"""What tests start: databases, configured gateways in this process, and `simroute serve` as a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx
import psycopg
from cryptography.fernet import Fernet

from gateway import accounts, ledger
from gateway.app import Gateway
from gateway.cli import ANSWER_SECONDS
from gateway.database import Database, open_database
from gateway.money import parse
from gateway.store import Tx
from gateway.vault import SECRET_NAMES

ROOT = Path(__file__).resolve().parent.parent
PATH = "/stubs/handler_api.php"
SANDBOX = '[sandbox]\nadapter = "sandbox"\nearly_cancel = "deny"\n'
START_SECONDS = 20.0


def fresh_secrets() -> dict[str, str]:
    """Secrets nobody else has, for a database that lives as long as a test."""
    values = {name: uuid.uuid4().hex for name in SECRET_NAMES}
    values["DATA_ENCRYPTION_KEYS"] = Fernet.generate_key().decode()
    return values


def environment(url: str, **more: str) -> dict[str, str]:
    """The environment of one gateway: nothing of the tester's own leaks in."""
    return {"DATABASE_URL": url, **fresh_secrets(), **more}


def config_directory(
    parent: Path, upstreams: str = SANDBOX, gateway: str = "", pricing: str = "", routing: str = "", rates: str = ""
) -> Path:
    """A configuration directory with the shipped catalogue and the given files (empty: that file's defaults)."""
    directory = parent / f"config-{uuid.uuid4().hex[:8]}"
    directory.mkdir()
    (directory / "catalog").symlink_to(ROOT / "config" / "catalog")
    files = {"upstreams": upstreams, "gateway": gateway, "pricing": pricing, "routing": routing, "rates": rates}
    for name, text in files.items():
        if text:
            (directory / f"{name}.toml").write_text(text)
    return directory


@contextmanager
def postgres_database(server_url: str) -> Iterator[str]:
    """A database of its own on a running PostgreSQL; its address."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    base, _, query = server_url.partition("?")
    try:
        yield f"{base.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(f"drop database if exists {name} with (force)")


async def add_account(
    database: Database, name: str = "alice", balance: str = "10.00", *, is_demo: bool = True, currency: str = "USD"
) -> str:
    """An account with money and a key; the key."""

    def create(tx: Tx) -> str:
        now = time.time()
        account_id = accounts.create(tx, name, currency, now, is_demo=is_demo)
        if float(balance):
            ledger.deposit(tx, account_id, parse(balance, currency), now, actor="test")
        return accounts.issue_key(tx, database.vault, name, now)

    return await database.store.run(create)


@dataclass
class House:
    """A gateway in this process, started, with a client for its ASGI application."""

    gateway: Gateway
    database: Database
    client: httpx.AsyncClient
    keys: dict[str, str] = field(default_factory=dict)

    async def call(self, action: str, key: str = "", **parameters: object) -> str:
        """One request of the SMS-Activate protocol; the body. `key` is an account's name or a key, alice by default."""
        query = {"api_key": self.keys.get(key or "alice", key), "action": action}
        query.update({name: str(value) for name, value in parameters.items()})
        response = await self.client.get(PATH, params=query)
        assert response.status_code == 200
        return response.text

    async def buy(self, service: str = "tg", country: int = 6, **parameters: object) -> str:
        """Buys a number; the activation's id."""
        answer = await self.call("getNumber", "", service=service, country=country, **parameters)
        assert answer.startswith("ACCESS_NUMBER:"), answer
        return answer.split(":")[1]

    async def until(self, activation_id: str, prefix: str, seconds: float = 15.0) -> str:
        """Polls getStatus until it begins so; the answer."""
        deadline = time.monotonic() + seconds
        while True:
            answer = await self.call("getStatus", id=activation_id)
            if answer.startswith(prefix):
                return answer
            assert time.monotonic() < deadline, f"still {answer}"
            await asyncio.sleep(0.05)

    async def problems(self) -> list[str]:
        """What `ledger verify` finds."""
        return await self.database.store.read(ledger.verify)

    async def balance(self, name: str = "alice") -> tuple[int, int]:
        """An account's available and held micro-units."""

        def read(tx: Tx) -> tuple[int, int]:
            found = ledger.balance(tx, accounts.find(tx, name)["id"])
            return found.available.micros, found.held.micros

        return await self.database.store.read(read)


@asynccontextmanager
async def house(
    directory: Path,
    values: Mapping[str, str],
    *,
    balances: Mapping[str, str] | None = None,
    is_demo: bool = True,
    currency: str = "USD",
) -> AsyncIterator[House]:
    """A started gateway on the configuration and database given, with an account (alice, 10.00) or those named."""
    database = await asyncio.to_thread(open_database, values, answer_seconds=ANSWER_SECONDS)
    gateway = Gateway(directory, values, database)
    keys = {
        name: await add_account(database, name, balance, is_demo=is_demo, currency=currency)
        for name, balance in ({"alice": "10.00"} if balances is None else balances).items()
    }
    await gateway.start()
    transport = httpx.ASGITransport(app=gateway.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        try:
            yield House(gateway, database, client, keys)
        finally:
            await gateway.stop()


@dataclass
class Server:
    """`simroute serve` as a process."""

    process: subprocess.Popen[str]
    base: str
    log: Path
    values: Mapping[str, str]
    directory: Path

    @property
    def url(self) -> str:
        """What a client is pointed at."""
        return self.base + PATH

    def kill(self) -> None:
        """As the machine would: no goodbye."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


def run_cli(
    values: Mapping[str, str], directory: Path, *arguments: str, code: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs the command line tool to its end; by this code, where something is to be different."""
    program = ["-c", code] if code else ["-m", "gateway.cli"]
    command = [sys.executable, *program, "--config", str(directory), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=_environment(values), capture_output=True, text=True, timeout=60, check=False
    )


def _environment(values: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    return {**kept, "PYTHONUNBUFFERED": "1", **values}


@contextmanager
def server(
    directory: Path, values: Mapping[str, str], log: Path, *arguments: str, verb: str = "serve"
) -> Iterator[Server]:
    """A gateway process (or, by its `verb`, a worker) on a free port, stopped at the end however the test ends."""
    command = [sys.executable, "-m", "gateway.cli", verb, "--config", str(directory), "--port", "0", *arguments]
    with log.open("a") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_environment(values), stdout=subprocess.PIPE, stderr=output, text=True
        )
    try:
        assert process.stdout is not None
        yield Server(process, _base(process, process.stdout, log), log, values, directory)
    finally:
        if process.poll() is None and arguments:
            process.terminate()  # those that have children see to their end, too
        elif process.poll() is None:
            process.kill()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()


def _base(process: subprocess.Popen[str], output: IO[str], log: Path) -> str:
    for line in output:
        found = re.search(r"http://[^\s/]+:\d+", line)
        if found:
            return found.group(0).removesuffix(PATH)
    raise AssertionError(f"the gateway did not start: {log.read_text()} (status {process.poll()})")
