"""Backup files: what is in them, what is refused, and that nothing is left behind by one that failed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from cryptography.fernet import Fernet

from gateway import backups, migrations, restoring
from gateway.backups import MAGIC, Backup, BackupError, Stopped
from gateway.database import BACKUP_LOCK, RESTORE_MARK, Database, DatabaseError, open_database, schema_of
from gateway.store import Tx
from gateway.vault import Secrets, Vault, read_secrets
from tests.harness import ROOT, add_account, config_directory, environment, postgres_database
from tests.shell import Shell

DAY = 86_400.0
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp()
"""A Wednesday."""


def within(values: dict[str, str], work: Callable[[Database], Any]) -> Any:
    """Opens a database, awaits the work on it, and closes it."""

    async def run() -> Any:
        database = open_database(values)
        try:
            return await work(database)
        finally:
            await database.store.close()

    return asyncio.run(run())


class Place:
    """A database with an account, and where its backups go."""

    def __init__(self, values: dict[str, str], directory: Path, tools: str) -> None:
        self.values = values
        self.url = values["DATABASE_URL"]
        self.directory = directory
        self.tools = tools

    @property
    def secrets(self) -> Secrets:
        return read_secrets(self.values)

    def take(self, at: float = NOON) -> Backup:
        return backups.take(self.url, Vault(self.secrets), self.directory, at, tools=self.tools)

    def restore(self, path: Path, url: str, secrets: Secrets | None = None) -> restoring.Restored:
        return restoring.restore(path, url, secrets or self.secrets, NOON + 60, tools=self.tools)

    def refused(self, path: Path, url: str, secrets: Secrets | None = None) -> str:
        with pytest.raises(BackupError) as caught:
            self.restore(path, url, secrets)
        return str(caught.value)


def with_alice(url: str) -> dict[str, str]:
    values = environment(url)
    within(values, lambda database: add_account(database, "alice", "12.50"))
    return values


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A SQLite database to be copied: making one takes longer than any test here."""
    return with_alice(f"sqlite:///{tmp_path_factory.mktemp('seed')}/simroute.db")


@pytest.fixture
def embedded(seed: dict[str, str], sqlite_url: str, tmp_path: Path) -> Place:
    shutil.copy(seed["DATABASE_URL"].removeprefix("sqlite:///"), sqlite_url.removeprefix("sqlite:///"))
    return Place({**seed, "DATABASE_URL": sqlite_url}, tmp_path / "kept", "")


@pytest.fixture
def place(request: pytest.FixtureRequest, database_url: str, tmp_path: Path, postgres_tools: str) -> Place:
    if database_url.startswith("sqlite:"):
        return cast(Place, request.getfixturevalue("embedded"))
    return Place(with_alice(database_url), tmp_path / "kept", postgres_tools)


@pytest.fixture
def elsewhere(database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    if database_url.startswith("sqlite:"):
        yield f"sqlite:///{tmp_path}/elsewhere/simroute.db"
    else:
        with postgres_database(request.getfixturevalue("postgres_server")) as url:
            yield url


def is_bare(url: str) -> bool:
    """Whether nothing is at the address of `elsewhere`."""
    if url.startswith("sqlite:"):
        directory = Path(url.removeprefix("sqlite:///")).parent
        return not directory.exists() or not list(directory.iterdir())
    return schema_of(url) == ""


# Taking


def test_a_backup_is_its_owners_alone_and_shows_no_content(place: Place) -> None:
    taken = place.take()
    assert taken.path.name == "simroute-20260304T120000Z.backup"
    assert stat.S_IMODE(taken.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.directory.stat().st_mode) == 0o700
    assert list(place.directory.iterdir()) == [taken.path]
    content = taken.path.read_bytes()
    assert not [word for word in (b"alice", b"ledger", *map(str.encode, place.values.values())) if word in content]
    assert (taken.header.schema, taken.header.at) == (migrations.LATEST, NOON)


def test_two_of_one_second_are_two_files(embedded: Place) -> None:
    first, second = embedded.take(), embedded.take()
    assert [one.path.name for one in (first, second)] == [
        "simroute-20260304T120000Z.backup",
        "simroute-20260304T120000Z-2.backup",
    ]
    assert {one.path for one in backups.listed(embedded.directory)} == {first.path, second.path}


def test_what_is_given_up_leaves_nothing(place: Place) -> None:
    vault = Vault(place.secrets)
    with pytest.raises(Stopped):
        backups.take(place.url, vault, place.directory, NOON, tools=place.tools, should_stop=lambda: True)
    assert list(place.directory.iterdir()) == []


def test_one_whose_lock_is_lost_is_given_up(postgres_url: str, tmp_path: Path, postgres_tools: str) -> None:
    """Its connection alone has ended: somebody else could begin."""
    there = Place(with_alice(postgres_url), tmp_path / "kept", postgres_tools)

    def cut() -> bool:
        with psycopg.connect(postgres_url, autocommit=True) as other:
            found = "select pg_terminate_backend(pid, 10000) from pg_locks where objid = %s"
            other.execute(found, (BACKUP_LOCK,))
        return False

    with pytest.raises(BackupError, match="lost"):
        backups.take(there.url, Vault(there.secrets), there.directory, NOON, tools=there.tools, should_stop=cut)
    assert list(there.directory.iterdir()) == []


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from gateway.cli import main
main(sys.argv[2:])
"""


def test_a_full_disk_leaves_no_file(place: Place, tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk: a whole copy is larger, and so is a sealed dump."""
    limit = 200_000 if place.url.startswith("sqlite:") else 4_000
    directory = config_directory(tmp_path, gateway=f'[backup]\npostgresql_tools = "{place.tools}"\n')
    done = subprocess.run(
        [
            sys.executable,
            "-B",
            "-c",
            LIMITED,
            str(limit),
            "--config",
            str(directory),
            "backup",
            "--to",
            str(place.directory),
        ],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **place.values},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    assert list(place.directory.iterdir()) == []


def test_too_little_room_is_said_beforehand(embedded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1 << 20

    monkeypatch.setattr("gateway.backups.shutil.disk_usage", lambda _path: Usage)
    with pytest.raises(BackupError, match=r"1 MiB are free, 6\d MiB needed"):
        embedded.take()
    assert list(embedded.directory.iterdir()) == []


def test_a_damaged_database_makes_no_backup(embedded: Place) -> None:
    path = Path(embedded.url.removeprefix("sqlite:///"))
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 40 * 4096] = b"\xff" * (37 * 4096)
    path.write_bytes(content)
    with pytest.raises(BackupError, match=r"damaged|malformed"):
        embedded.take()
    assert list(embedded.directory.iterdir()) == []


def test_a_missing_tool_is_named_with_what_to_do(postgres_url: str, tmp_path: Path) -> None:
    there = Place(environment(postgres_url), tmp_path / "kept", str(tmp_path))
    with pytest.raises(BackupError, match=r"there is no pg_dump in .*backup\.postgresql_tools"):
        there.take()


def test_what_a_tool_complains_of_is_told_and_the_password_is_no_argument(tmp_path: Path) -> None:
    tool = tmp_path / "pg_dump"
    script = ("#!/bin/sh", f'echo "$@" > {tmp_path}/arguments', f"env > {tmp_path}/variables")
    tool.write_text("\n".join([*script, "echo 'pg_dump: error: no' >&2", "echo 'DETAIL: a row' >&2", "exit 1"]))
    tool.chmod(0o755)
    url = "postgresql://ann:a-secret@db.example.com/x?keepalives=1&sslpassword=another-secret"
    with (
        pytest.raises(BackupError, match=r"^pg_dump failed: pg_dump: error: no$"),
        backups.running_tool("pg_dump", ["--one"], url, tmp_path, str(tmp_path)),
    ):
        pass
    arguments = (tmp_path / "arguments").read_text()
    assert "secret" not in arguments
    assert all(word in arguments for word in ("--one", "dbname=x", "keepalives=1"))
    assert {"PGPASSWORD=a-secret", "PGUSER=ann", "PGHOST=db.example.com"} <= {
        *(tmp_path / "variables").read_text().splitlines()
    }


# Restoring


def test_what_was_backed_up_is_restored_and_verified_and_never_replaces_anything(place: Place, elsewhere: str) -> None:
    path = place.take().path
    assert "nothing is ever replaced" in place.refused(path, place.url)
    assert place.restore(path, elsewhere).problems == ()
    assert "nothing is ever replaced" in place.refused(path, elsewhere)
    there = {**place.values, "DATABASE_URL": elsewhere}

    async def balance(database: Database) -> int:
        row = await database.store.read(lambda tx: tx.one("select available from balances"))
        assert row is not None
        return int(row["available"])

    assert within(there, balance) == 12_500_000


@pytest.fixture
def served(postgres_url: str, tmp_path: Path, postgres_tools: str) -> Place:
    """A place on a server."""
    return Place(with_alice(postgres_url), tmp_path / "kept", postgres_tools)


@pytest.fixture
def vacant(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database there."""
    with postgres_database(request.getfixturevalue("postgres_server")) as url:
        yield url


def has_mark(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return connection.execute("select to_regclass(%s) is not null", (RESTORE_MARK,)).fetchone() == (True,)


def test_a_restore_that_was_ended_before_its_state_was_fit_is_not_served(
    served: Place, vacant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def end(*_args: object) -> None:
        raise KeyboardInterrupt

    path = served.take().path
    with monkeypatch.context() as patch:
        patch.setattr(restoring, "make_fit", end)
        with pytest.raises(KeyboardInterrupt):
            served.restore(path, vacant)
    there = {**served.values, "DATABASE_URL": vacant}
    with pytest.raises(DatabaseError, match="a restore into this database was not finished"):
        open_database(there)
    assert "was not finished" in Shell(config_directory(tmp_path), there).refused("db", "upgrade")
    assert "nothing is ever replaced" in served.refused(path, vacant)


def test_a_restore_that_wrote_nothing_can_be_begun_again(served: Place, vacant: str, tmp_path: Path) -> None:
    path = served.take().path
    without_tools = Place(served.values, served.directory, str(tmp_path))
    assert "there is no pg_restore" in without_tools.refused(path, vacant)
    assert not has_mark(vacant)
    with psycopg.connect(vacant, autocommit=True) as connection:  # as one that was killed leaves it
        connection.execute(f"create table {RESTORE_MARK} ()")
    assert served.restore(path, vacant).problems == ()
    assert not has_mark(vacant)


def altered(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGES: Mapping[str, Callable[[bytes], bytes]] = {
    "a byte": lambda content: altered(content, len(content) // 2),
    "the last byte": lambda content: altered(content, len(content) - 1),
    "cut by a byte": lambda content: content[:-1],
    "cut in two": lambda content: content[: len(content) // 2],
    "lengthened": lambda content: content + b"more",
    "another time": lambda content: content.replace(b'"at": 1', b'"at": 2'),
}


def test_a_damaged_or_altered_file_is_refused_and_nothing_written(place: Place, elsewhere: str) -> None:
    path = place.take().path
    whole = path.read_bytes()
    for name, damage in DAMAGES.items():
        path.write_bytes(damage(whole))
        assert path.read_bytes() != whole, name
        assert place.refused(path, elsewhere).endswith("is cut short, damaged or was altered: take another one"), name
        assert is_bare(elsewhere), name


def test_a_backup_needs_the_key_it_was_sealed_under(place: Place, elsewhere: str) -> None:
    path = place.take().path
    other = read_secrets({**place.values, "DATA_ENCRYPTION_KEYS": Fernet.generate_key().decode()})
    assert "a key that is not in DATA_ENCRYPTION_KEYS" in place.refused(path, elsewhere, other)
    assert is_bare(elsewhere)
    newer = f"{Fernet.generate_key().decode()},{place.values['DATA_ENCRYPTION_KEYS']}"
    turned = read_secrets({**place.values, "DATA_ENCRYPTION_KEYS": newer})
    assert place.restore(path, elsewhere, turned).problems == ()


def test_a_log_left_beside_a_missing_sqlite_file_counts_as_something_there(embedded: Place, tmp_path: Path) -> None:
    (tmp_path / "new.db-wal").write_bytes(b"what somebody wrote")
    assert "nothing is ever replaced" in embedded.refused(embedded.take().path, f"sqlite:///{tmp_path}/new.db")


def test_a_newer_schema_is_refused(embedded: Place, tmp_path: Path) -> None:
    with sqlite3.connect(embedded.url.removeprefix("sqlite:///")) as connection:
        connection.execute("update alembic_version set version_num = '9999'")
    connection.close()
    words = embedded.refused(embedded.take().path, f"sqlite:///{tmp_path}/new.db")
    assert "'9999', which this version does not know" in words


def test_a_newer_format_and_what_is_no_backup_are_refused(embedded: Place, tmp_path: Path) -> None:
    path = tmp_path / "file"
    header = json.dumps({"format": 2, "kind": "sqlite", "schema": "0001", "key": "", "at": 1.0}).encode()
    path.write_bytes(MAGIC + len(header).to_bytes(4, "big") + header)
    assert "newer version" in embedded.refused(path, f"sqlite:///{tmp_path}/new.db")
    for content in (b"", MAGIC, b"SQLite format 3\x00" * 100, MAGIC + b"\x00\x00\x00\x02[]"):
        path.write_bytes(content)
        assert "is not a backup of simroute" in embedded.refused(path, f"sqlite:///{tmp_path}/new.db")


def test_a_backup_goes_into_its_own_kind_of_database(embedded: Place) -> None:
    words = embedded.refused(embedded.take().path, "postgresql://nobody@127.0.0.1:9/none")
    assert "is of a sqlite database" in words


def test_books_that_do_not_add_up_are_told_and_still_restored(embedded: Place, tmp_path: Path) -> None:
    with sqlite3.connect(embedded.url.removeprefix("sqlite:///")) as connection:
        connection.execute("update balances set available = available + 1")
    connection.close()
    result = embedded.restore(embedded.take().path, f"sqlite:///{tmp_path}/new.db")
    assert len(result.problems) == 1
    assert (tmp_path / "new.db").exists()


def _queue_a_notice(tx: Tx) -> None:
    activation = tx.insert(
        "insert into activations (account_id, key_id, service, country, operator, status, price, currency, opened_at,"
        " fingerprint, config_version, ended_at) values (1, 1, 'tg', 6, '', 'finished', 0, 'USD', 1, '', '', 2)"
        " returning id"
    )
    message = tx.insert(
        "insert into messages (activation_id, identity, round, code_sealed, text_sealed, received_at, is_shown)"
        " values (:id, 'x', 1, '', '', 1, 1) returning id",
        id=activation,
    )
    tx.execute(
        "insert into notices (account_id, activation_id, message_id, format, state, next_at, created_at)"
        " values (1, :activation, :message, 'native', 'pending', 1, 1)",
        activation=activation,
        message=message,
    )
    for account, source in ((1, "hook"), (2, "parent")):
        tx.execute(
            "insert into recharges (account_id, is_on, source, threshold, amount, month_max, cool_down_seconds)"
            " values (:id, 1, :source, 1, 1, 1, 1)",
            id=account,
            source=source,
        )


def _state(tx: Tx) -> dict[str, Any]:
    (notice,) = tx.all("select state, last_result from notices")
    on = [row["source"] for row in tx.all("select source from recharges where is_on = 1")]
    done = tx.all("select detail from audit where action = 'database.restore'")
    return {"notice": (notice["state"], notice["last_result"]), "on": on, "audit": len(done)}


def test_an_old_state_tells_charges_and_numbers_nothing_a_second_time(place: Place, elsewhere: str) -> None:
    async def prepare(database: Database) -> None:
        await add_account(database, "bob", "0")
        await database.store.run(_queue_a_notice)

    async def look(database: Database) -> tuple[dict[str, Any], int]:
        key = await add_account(database, "carol", "0")
        assert key
        rows = await database.store.read(lambda tx: tx.all("select id from accounts where name = 'carol'"))
        return await database.store.read(_state), rows[0]["id"]

    within(place.values, prepare)
    result = place.restore(place.take().path, elsewhere)
    assert (result.notices, result.recharges) == (1, 1)
    state, newest = within({**place.values, "DATABASE_URL": elsewhere}, look)
    assert state == {"notice": ("dead", "restored from a backup"), "on": ["parent"], "audit": 1}
    assert newest > 1000


# Keeping


def days_ago(*days: float) -> list[float]:
    return [NOON - day * DAY for day in days]


def test_the_last_of_each_of_the_newest_days_and_weeks_is_kept() -> None:
    times = days_ago(0, 0.1, 1, 2, 3, 4, 9, 10, 30)
    gone = backups.superfluous(times, daily=2, weekly=3)
    # Of this week Wednesday's, which is the newest day's anyway; Sunday's of the two before.
    assert sorted(set(times) - gone, reverse=True) == days_ago(0, 1, 3, 10)
    assert backups.superfluous(times, daily=366, weekly=0) == set(days_ago(0.1))
    assert backups.superfluous([], daily=1, weekly=1) == set()


def test_only_files_of_ours_are_pruned_and_what_the_dead_left(embedded: Place) -> None:
    for at in days_ago(0, 1, 2):
        embedded.take(at)
    secrets = read_secrets(environment(embedded.url))
    others = [backups.take(embedded.url, Vault(secrets), embedded.directory, at).path for at in days_ago(20, 21)]
    (embedded.directory / "simroute-notes.backup").write_text("mine")
    (embedded.directory / ".simroute-old").mkdir()
    os.utime(embedded.directory / ".simroute-old", (1, 1))
    (embedded.directory / ".simroute-new").mkdir()
    (embedded.directory / ".simroute-dead").mkdir()
    (embedded.directory / ".simroute-dead" / "sealed").write_text("half of one")
    with backups.private_directory(embedded.directory) as used:
        (used / "sealed").write_text("half of one")
        gone = backups.prune(embedded.directory, Vault(embedded.secrets), daily=1, weekly=1)
        assert used.exists()
    assert [path.name for path in gone] == ["simroute-20260303T120000Z.backup", "simroute-20260302T120000Z.backup"]
    left = {path.name for path in embedded.directory.iterdir()}
    names = {
        "simroute-20260304T120000Z.backup",
        "simroute-notes.backup",
        ".simroute-new",
        *(path.name for path in others),
    }
    assert left == names


# The command line


def test_commands_take_list_and_restore(embedded: Place, tmp_path: Path) -> None:
    shell = Shell(config_directory(tmp_path), embedded.values)
    taken = shell.json("backup")
    assert Path(taken["file"]).parent == tmp_path / "backups"
    assert shell.json("backups") == [taken]
    assert taken["key"] == "known"
    told = shell.ok("restore", taken["file"], "--to", f"{tmp_path}/new/simroute.db")
    assert f"put the secrets.env that belongs to it into {tmp_path}/new" in told
    assert told.endswith("ledger verify:\nok\n")
    there = Shell(shell.directory, {**embedded.values, "DATABASE_URL": f"sqlite:///{tmp_path}/new/simroute.db"})
    assert [row["account"] for row in there.json("account", "list")] == ["alice"]


def test_secrets_are_read_from_beside_the_database_and_are_not_in_the_backup(embedded: Place, tmp_path: Path) -> None:
    secrets = "".join(f"{name}={value}\n" for name, value in embedded.values.items() if name != "DATABASE_URL")
    (tmp_path / "secrets.env").write_text(secrets)
    shell = Shell(config_directory(tmp_path), {"DATABASE_URL": embedded.url})
    file = shell.json("backup")["file"]
    new = f"{tmp_path}/new/simroute.db"
    alone = Shell(shell.directory, {"DATABASE_URL": f"sqlite:///{new}"})
    assert "DATA_ENCRYPTION_KEYS" in alone.refused("restore", file, "--to", new)
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "secrets.env").write_text(secrets)
    assert "secrets.env" not in alone.ok("restore", file, "--to", new)


def test_a_backup_of_nothing_is_refused_and_makes_nothing(tmp_path: Path) -> None:
    shell = Shell(config_directory(tmp_path), {"DATABASE_URL": f"sqlite:///{tmp_path}/var/simroute.db"})
    assert "there is no database" in shell.refused("backup")
    assert not (tmp_path / "var").exists()


def test_postgresql_needs_to_be_told_where_backups_go(tmp_path: Path) -> None:
    shell = Shell(config_directory(tmp_path), environment("postgresql://nobody@127.0.0.1:9/none"))
    assert "set backup.directory" in shell.refused("backup")
