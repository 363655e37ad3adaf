"""The day's backup: taken once, by one process, kept for a while, and missed when it does not come."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway import alerts, archivist, backups
from gateway.alerts import Alerts
from gateway.app import Gateway
from gateway.archivist import Archivist
from gateway.backups import BackupError
from gateway.database import DatabaseError, lock_for_backup, open_database
from gateway.store import Row
from tests.harness import ROOT, config_directory, environment, house
from tests.scripted import Watch
from tests.shell import Shell

HOUR = 3600.0
DAY = 24 * HOUR
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp()


@dataclass
class Looked:
    """A gateway that does not run, whose archivist a test calls, on a clock of the test's."""

    gateway: Gateway
    url: str
    values: dict[str, str]
    tools: str
    directory: Path
    watch: Watch
    told: list[str]

    def archivist(self) -> Archivist:
        house = self.gateway.house
        return Archivist(
            house, self.url, Alerts(house.store, house.metrics, self.watch, lambda t, _s: self.told.append(t))
        )

    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob("*"))

    async def at(self, now: float, by: Archivist) -> list[str]:
        """The files after a round at that time."""
        self.watch.now = now
        await by.round()
        return self.files()

    async def state(self) -> Row:
        row = await self.gateway.house.store.read(archivist.current, archivist.NAME)
        assert row is not None
        return row


@pytest.fixture
async def looked(database_url: str, tmp_path: Path, postgres_tools: str) -> AsyncIterator[Looked]:
    values, watch, kept = environment(database_url), Watch(), tmp_path / "kept"
    watch.now = NOON
    section = (
        f'[backup]\ndirectory = "{kept}"\nkeep_daily = 2\nkeep_weekly = 0\npostgresql_tools = "{postgres_tools}"\n'
    )
    database = await asyncio.to_thread(open_database, values)
    gateway = Gateway(config_directory(tmp_path, gateway=section), values, database, watch)
    try:
        yield Looked(gateway, database_url, values, postgres_tools, kept, watch, [])
    finally:
        await gateway.stop()


async def test_the_first_is_taken_when_its_hour_comes_and_then_one_a_day(looked: Looked) -> None:
    by = looked.archivist()
    assert await looked.at(NOON, by) == []
    assert await looked.at(NOON + 15 * HOUR - 1, by) == []
    first = ["simroute-20260305T030000Z.backup"]
    assert await looked.at(NOON + 15 * HOUR, by) == first
    assert await looked.at(NOON + 16 * HOUR, by) == first
    assert await looked.at(NOON + 39 * HOUR - 1, by) == first
    second = ["simroute-20260306T033000Z.backup"]
    assert await looked.at(NOON + 39.5 * HOUR, by) == first + second
    assert await looked.at(NOON + 64 * HOUR, by) == [*second, "simroute-20260307T040000Z.backup"]
    sample = looked.gateway.house.metrics.registry.get_sample_value("simroute_backup_timestamp_seconds")
    assert sample == NOON + 64 * HOUR
    assert (await looked.state())["claimed_until"] == 0


async def test_of_several_processes_one_takes_it(looked: Looked) -> None:
    several = [looked.archivist() for _ in range(3)]
    await looked.at(NOON, several[0])
    looked.watch.now = NOON + DAY
    await asyncio.gather(*(one.round() for one in several))
    assert looked.files() == ["simroute-20260305T120000Z.backup"]


async def test_a_process_that_died_on_the_way_is_followed_by_another(looked: Looked) -> None:
    by = looked.archivist()
    await looked.at(NOON, by)
    looked.watch.now = NOON + DAY
    store = looked.gateway.house.store
    until = looked.watch.now + archivist.CLAIM_SECONDS
    assert await store.run(archivist.claim, await looked.state(), until)
    assert await looked.at(until - 1, by) == []
    assert await looked.at(until, by) == ["simroute-20260305T120100Z.backup"]


STUCK = """
import os, sys, time
from pathlib import Path
from gateway import backups
from gateway.vault import Vault, read_secrets

def wait():
    print("begun", flush=True)
    time.sleep(600)

vault = Vault(read_secrets(os.environ))
backups.take(os.environ["DATABASE_URL"], vault, Path(sys.argv[1]), 1.0, tools=sys.argv[2], should_stop=wait)
"""


@pytest.fixture
def stuck(looked: Looked) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of a backup, which it never ends."""
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", STUCK, str(looked.directory), looked.tools],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **looked.values},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_one_that_is_killed_is_followed_soon_and_leaves_nothing(
    looked: Looked, stuck: subprocess.Popen[str]
) -> None:
    by, soon = looked.archivist(), archivist.CLAIM_SECONDS
    await looked.at(NOON, by)
    looked.watch.now = NOON + DAY
    store = looked.gateway.house.store
    assert await store.run(archivist.claim, await looked.state(), looked.watch.now + soon)
    assert stuck.stdout is not None
    assert await asyncio.to_thread(stuck.stdout.readline) == "begun\n"
    (left,) = looked.files()
    assert await looked.at(NOON + DAY + soon, by) == [left]
    state = await looked.state()
    assert (state["problem"], state["good_at"], state["claimed_until"]) == ("", 0, NOON + DAY + 2 * soon)
    assert backups.listed(looked.directory) == []

    stuck.kill()
    stuck.wait()
    await until_free(looked.url)
    assert await looked.at(NOON + DAY + 2 * soon, by) == ["simroute-20260305T120200Z.backup"]


async def until_free(url: str) -> None:
    """Waits until PostgreSQL has noticed that a connection is gone."""
    deadline = time.monotonic() + 20
    while True:
        try:
            (await asyncio.to_thread(lock_for_backup, url)).close()
        except DatabaseError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        else:
            return


async def test_a_second_one_by_hand_is_refused(looked: Looked) -> None:
    lock = await asyncio.to_thread(lock_for_backup, looked.url)
    try:
        shell = Shell(
            config_directory(looked.directory.parent, gateway=f'[backup]\npostgresql_tools = "{looked.tools}"\n'),
            looked.values,
        )
        words = await asyncio.to_thread(shell.refused, "backup", "--to", str(looked.directory))
    finally:
        lock.close()
    assert "another backup of this database is being taken" in words
    assert looked.files() == []


async def test_one_that_fails_is_tried_again_and_missed_after_a_while(
    looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    by, take = looked.archivist(), backups.take

    def fail(*_args: object, **_options: object) -> backups.Backup:
        raise BackupError("the disk is full")

    monkeypatch.setattr(backups, "take", fail)
    await looked.at(NOON, by)
    await looked.at(NOON + DAY, by)
    assert (await looked.state())["problem"] == "the disk is full"
    await looked.at(NOON + 50 * HOUR, by)
    assert looked.told == []
    for _ in range(2):
        await looked.at(NOON + 51 * HOUR, by)
    assert looked.told == ["simroute: backup old: backup:daily"]
    monkeypatch.setattr(backups, "take", take)
    assert await looked.at(NOON + 51 * HOUR + archivist.RETRY_SECONDS, by) == ["simroute-20260306T153000Z.backup"]
    assert looked.told[1:] == ["simroute: backup old: backup:daily is well again"]


async def test_a_process_that_stops_gives_its_backup_up_and_leaves_it_to_the_next(
    looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    by, take = looked.archivist(), backups.take
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(*args: object, should_stop: backups.ShouldStop, **options: object) -> backups.Backup:
        loop.call_soon_threadsafe(begun.set)
        while not should_stop():
            time.sleep(0.005)
        return take(*args, should_stop=should_stop, **options)  # type: ignore[arg-type]

    await looked.at(NOON, by)
    looked.watch.now = NOON + DAY
    monkeypatch.setattr(backups, "take", slow)
    task = asyncio.create_task(by.round())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert looked.files() == []
    monkeypatch.setattr(backups, "take", take)
    assert await looked.at(NOON + DAY, looked.archivist()) == ["simroute-20260305T120000Z.backup"]


async def test_none_are_taken_or_missed_where_none_are_wanted(looked: Looked) -> None:
    house, by = looked.gateway.house, looked.archivist()
    backup = house.settings.gateway.backup.model_copy(update={"keep_daily": 0})
    everything = house.settings.gateway.model_copy(update={"backup": backup})
    object.__setattr__(house.settings, "gateway", everything)
    for day in range(4):
        assert await looked.at(NOON + day * DAY, by) == []
    assert looked.told == []
    assert await house.store.read(alerts.standing) == []


async def test_a_running_gateway_takes_the_one_it_missed(sqlite_url: str, tmp_path: Path) -> None:
    """Nothing is set: on SQLite they go beside the database."""
    values = environment(sqlite_url)
    database = await asyncio.to_thread(open_database, values)
    await database.store.run(archivist.begin, archivist.NAME, NOON)
    await database.store.close()
    async with house(config_directory(tmp_path), values) as running:
        registry, deadline = running.gateway.house.metrics.registry, time.monotonic() + 20
        while not registry.get_sample_value("simroute_backup_timestamp_seconds"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        (one,) = backups.listed(tmp_path / "backups")
    assert one.header.key in backups.keys(running.database.vault)
