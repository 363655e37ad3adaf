"""Restoring a backup into a database that is still empty, and making its old state fit to be served from.

Between the backup and now the world went on: numbers were bought, notices sent, accounts recharged, ids handed out.
What the restored state would do a second time for not knowing is stopped here; `docs/operations.md` says what is left.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg

from gateway import audit, ledger, migrations, seals, usage
from gateway.backups import (
    MAGIC,
    SQLITE,
    Backup,
    BackupError,
    check,
    keys,
    kind_of,
    move,
    private_directory,
    read,
    running_tool,
)
from gateway.database import RESTORE_MARK, Database, open_database
from gateway.sealed_stream import NotWhole, read_sealed
from gateway.store import Tx, sqlite_path
from gateway.vault import SECRET_NAMES, Secrets, Vault

IDS_SKIPPED: Mapping[str, int] = {
    "accounts": 1_000,
    "api_keys": 1_000,
    "activations": 1_000_000,
    "messages": 1_000_000,
    "notices": 1_000_000,
}
"""Ids that left the house, with more than can have been handed out since a backup."""

RESTORED = "restored from a backup"


@dataclass(frozen=True)
class Restored:
    """What became of it. `problems` are those of the books; none, and they add up."""

    backup: Backup
    url: str
    notices: int
    recharges: int
    problems: tuple[str, ...]


def restore(path: Path, url: str, secrets: Secrets, now: float, *, tools: str = "") -> Restored:
    """Restores a backup into the empty database at `url` and verifies its books. Blocks.

    Raises BackupError where the file is not whole, is sealed under another key, comes from a newer version, or where
    something is at `url` already: then nothing was changed there.
    """
    try:
        backup = read(path)
        key = _key(backup, Vault(secrets))
        _check_kind(backup, url)
        _check_empty(url)
        for _ in _unsealed(backup, key):
            pass  # to its end, before anything is written: whether it is whole shows only there
        load = _into_sqlite if backup.header.kind == SQLITE else _into_postgresql
        return load(backup, key, url, secrets, now, tools)
    except (sqlite3.Error, zlib.error) as error:
        raise BackupError(f"{path} can't be restored: {error}") from None
    except psycopg.Error as error:
        raise BackupError(f"PostgreSQL refuses: {type(error).__name__}") from None
    except OSError as error:
        raise BackupError(f"{path} can't be restored: {error.strerror or error}") from None


def _key(backup: Backup, vault: Vault) -> bytes:
    key = keys(vault).get(backup.header.key)
    if key is None:
        raise BackupError(
            f"{backup.path} is sealed under a key that is not in DATA_ENCRYPTION_KEYS: set the secrets that belonged to"
            " the database then, or put its secrets.env beside the new one"
        )
    return key


def _check_kind(backup: Backup, url: str) -> None:
    kind = kind_of(url)
    if kind != backup.header.kind:
        raise BackupError(f"{backup.path} is of a {backup.header.kind} database, and can't be restored into {kind}")
    if backup.header.schema not in migrations.known():
        raise BackupError(
            f"{backup.path} has the schema {backup.header.schema[:40]!r}, which this version does not know: restore it"
            " with the newer version of simroute that wrote it"
        )


def _check_empty(url: str) -> None:
    if kind_of(url) == SQLITE:
        path = sqlite_path(url)
        if any(Path(f"{path}{end}").exists() for end in ("", "-wal", "-journal")):
            raise BackupError(f"{path} exists: name a file that does not, nothing is ever replaced")
        return
    with psycopg.connect(url, connect_timeout=5) as connection:
        row = connection.execute(
            "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and c.relname <> %s",
            (RESTORE_MARK,),  # of a restore that was ended before anything was there
        ).fetchone()
    if row is None or row[0]:
        raise BackupError("the PostgreSQL database is not empty: create a new one, nothing is ever replaced")


def _unsealed(backup: Backup, key: bytes) -> Iterator[bytes]:
    try:
        with backup.path.open("rb") as file:
            yield from read_sealed(file, MAGIC, key)
    except NotWhole:
        raise BackupError(f"{backup.path} is cut short, damaged or was altered: take another one") from None


# Into place


def _into_sqlite(backup: Backup, key: bytes, url: str, secrets: Secrets, now: float, _tools: str) -> Restored:
    path = sqlite_path(url)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with private_directory(path.parent) as partial:
        copy = partial / "copy"
        with copy.open("xb") as file:
            file.writelines(_inflated(_unsealed(backup, key)))
        with closing(sqlite3.connect(copy)) as connection:
            check(connection)
        restored = _settle(backup, f"sqlite:///{copy}", url, secrets, now)
        with copy.open("rb") as file:
            os.fsync(file.fileno())
        _check_empty(url)
        move(copy, path)
    return restored


def _inflated(pieces: Iterable[bytes]) -> Iterator[bytes]:
    decompress = zlib.decompressobj()
    for piece in pieces:
        yield decompress.decompress(piece)
    yield decompress.flush()


def _into_postgresql(backup: Backup, key: bytes, url: str, secrets: Secrets, now: float, tools: str) -> Restored:
    # One transaction: a restore that fails leaves the database as empty as it was.
    options = ("--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error")
    _mark(url, f"create table if not exists {RESTORE_MARK} ()")
    try:
        with (
            private_directory(Path(tempfile.gettempdir())) as partial,
            running_tool("pg_restore", options, url, partial, tools, stdin=subprocess.PIPE) as process,
        ):
            assert process.stdin is not None  # noqa: S101 — for the type checker
            for piece in _unsealed(backup, key):
                process.stdin.write(piece)
    except BaseException:
        with suppress(BackupError, psycopg.Error):
            _check_empty(url)
            _mark(url, f"drop table if exists {RESTORE_MARK}")
        raise
    return _settle(backup, url, url, secrets, now)


def _mark(url: str, statement: LiteralString) -> None:
    """The mark keeps everybody from serving what is there, from before it is there until it is fit for that."""
    with psycopg.connect(url, connect_timeout=5, autocommit=True) as connection:
        connection.execute(statement)


# Fit to be served from


def _settle(backup: Backup, url: str, shown: str, secrets: Secrets, now: float) -> Restored:
    values = {name: str(getattr(secrets, name.lower())) for name in SECRET_NAMES}
    # Which brings an older schema up to date.
    database = open_database({"DATABASE_URL": url, **values}, is_restoring=True)

    async def work() -> Restored:
        try:
            store = database.store
            notices, recharges = await store.run(make_fit, store.dialect, backup.header.at, now)
            return Restored(backup, shown, notices, recharges, tuple(await store.read(_problems, database)))
        finally:
            await database.store.close()

    return asyncio.run(work())


def _problems(tx: Tx, database: Database) -> list[str]:
    return [*ledger.verify(tx), *usage.verify(tx), *seals.verify(tx, database.vault)]


def make_fit(tx: Tx, dialect: str, taken_at: float, at: float) -> tuple[int, int]:
    """Stops what an old state would do again; how many notices are given up, how many recharges are switched off."""
    notices = tx.execute(
        "update notices set state = 'dead', ended_at = :at, last_result = :why where state = 'pending'",
        at=at,
        why=RESTORED,
    )
    recharges = tx.execute("update recharges set is_on = 0 where is_on = 1 and source = 'hook'")
    tx.execute("update backup_state set claimed_until = 0")
    for table, count in IDS_SKIPPED.items():
        _skip_ids(tx, dialect, table, count)
    if dialect == "postgresql":
        tx.execute(f"drop table if exists {RESTORE_MARK}")
    audit.note(
        tx, at, "cli", "database.restore", "database", taken_at=taken_at, notices_given_up=notices,
        recharges_off=recharges,
    )  # fmt: skip
    return notices, recharges


def _skip_ids(tx: Tx, dialect: str, table: str, count: int) -> None:
    if dialect == "sqlite":
        if not tx.execute("update sqlite_sequence set seq = seq + :n where name = :table", n=count, table=table):
            tx.execute("insert into sqlite_sequence (name, seq) values (:table, :n)", n=count, table=table)
    else:
        tx.one("select setval(s, nextval(s) + :n) from pg_get_serial_sequence(:table, 'id') as s", n=count, table=table)
