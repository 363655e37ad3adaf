"""The drill: a gateway sells, is backed up meanwhile, and goes on elsewhere from what was written down."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from gateway.database import open_database
from tests.harness import SANDBOX, Server, add_account, config_directory, environment, postgres_database, server
from tests.shell import Shell

QUICK = SANDBOX + "quick_seconds = 0.1\npoll_seconds = 0.1\n"
CLIENTS = 4


@dataclass
class Load:
    """Clients that buy, wait for the code, and finish three of four."""

    url: str
    key: str
    kept: dict[str, str] = field(default_factory=dict)
    """What getStatus said of those that were not finished."""
    count: int = 0
    newest: int = 0
    wrong: list[str] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def call(self, client: httpx.Client, action: str, **parameters: str) -> str:
        return client.get(self.url, params={"api_key": self.key, "action": action, **parameters}).text

    def work(self) -> None:
        with httpx.Client(timeout=20) as client:
            while not self.is_over.is_set():
                self._one_life(client)

    def _one_life(self, client: httpx.Client) -> None:
        answer = self.call(client, "getNumber", service="tg", country="6")
        if not answer.startswith("ACCESS_NUMBER:"):
            self.wrong.append(answer)
            return
        bought = answer.split(":")[1]
        deadline = time.monotonic() + 20
        while not (status := self.call(client, "getStatus", id=bought)).startswith("STATUS_OK:"):
            if time.monotonic() > deadline:
                self.wrong.append(status)
                return
            time.sleep(0.05)
        self.count, self.newest = self.count + 1, max(self.newest, int(bought))
        if self.count % 4 == 0:
            self.kept[bought] = status
        elif (answer := self.call(client, "setStatus", id=bought, status="6")) != "ACCESS_ACTIVATION":
            self.wrong.append(answer)

    def until(self, count: int) -> None:
        """Waits until so many activations have their code."""
        deadline = time.monotonic() + 30
        while self.count < count:
            assert time.monotonic() < deadline, (self.count, self.wrong)
            time.sleep(0.02)


@contextmanager
def load(running: Server, key: str) -> Iterator[Load]:
    made = Load(running.url, key)
    threads = [threading.Thread(target=made.work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.is_over.set()
        for thread in threads:
            thread.join(30)


@pytest.fixture
def elsewhere(database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of another empty database of the same kind."""
    if database_url.startswith("sqlite:"):
        yield f"sqlite:///{tmp_path}/elsewhere/simroute.db"
    else:
        with postgres_database(request.getfixturevalue("postgres_server")) as url:
            yield url


def opened_with_key(values: dict[str, str]) -> str:
    async def work() -> str:
        database = open_database(values)
        try:
            return await add_account(database, "alice", "1000.00")
        finally:
            await database.store.close()

    return asyncio.run(work())


def test_a_gateway_goes_on_elsewhere_from_a_backup_taken_under_load(
    database_url: str, elsewhere: str, tmp_path: Path, postgres_tools: str
) -> None:
    values = environment(database_url)
    settings = f'[limits]\nchanges_per_minute = 100000\n[backup]\npostgresql_tools = "{postgres_tools}"\n'
    here = Shell(config_directory(tmp_path, QUICK, settings), values)
    key = opened_with_key(values)
    with server(here.directory, values, tmp_path / "log") as running, load(running, key) as clients:
        clients.until(8)
        before = dict(clients.kept)
        file = here.json("backup", "--to", str(tmp_path / "kept"))["file"]
        meanwhile = clients.count
        clients.until(meanwhile + 8)
    assert clients.wrong == []

    there = Shell(here.directory, {**values, "DATABASE_URL": elsewhere})
    assert here.ok("restore", file, "--to", elsewhere).endswith("ledger verify:\nok\n")
    with server(there.directory, there.values, tmp_path / "log elsewhere") as running, httpx.Client() as client:
        again = Load(running.url, key)
        assert before
        assert {bought: again.call(client, "getStatus", id=bought) for bought in before} == before
        # Another service: an order whose answer was under way is claimed by its like, under its own id.
        answer = again.call(client, "getNumber", service="wa", country="6")
        assert int(answer.split(":")[1]) > clients.newest, "an id was handed out a second time"
        assert running.stop() == 0
    assert there.json("ledger", "verify")["problems"] == []
    assert 0 < activations(there.values) - 1 < activations(values), "it is no moment in the middle"


def activations(values: Mapping[str, str]) -> int:
    async def work() -> int:
        database = open_database(values)
        try:
            row = await database.store.read(lambda tx: tx.one("select count(*) as n from activations"))
            return int(row["n"]) if row is not None else 0
        finally:
            await database.store.close()

    return asyncio.run(work())
