"""Opening the database: where it is, its secrets, its schema, and whether this process may serve from it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psycopg

from gateway import keyring, migrations
from gateway.errors import Unavailable
from gateway.store import Store, Tx, connect, server_address, sqlite_path, transaction, watched
from gateway.vault import SECRET_NAMES, Secrets, SecretsError, Vault, create_secrets, read_secrets, read_secrets_file

EMBEDDED_URL = "sqlite:///var/simroute.db"
SECRETS_FILE = "secrets.env"
SERVE_LOCK = 0x51_40_0002
BACKUP_LOCK = 0x51_40_0003
"""Numbers of our own for PostgreSQL's advisory locks."""

RESTORE_MARK = "restore_unfinished"
"""A table that is there from before a restore writes anything until what it wrote is fit to be served from."""

_NOTICE_GONE = (
    "set tcp_keepalives_idle = 15; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3;"
    " select set_config(name, '0', false) from pg_settings where name = 'idle_session_timeout'"
)
"""By default PostgreSQL takes a machine that lost its power for one that is there, for two hours. A connection that
only holds a lock is idle all its life."""

_SESSION = "select pid, backend_start from pg_stat_activity where pid = pg_backend_pid()"
_IS_THERE = "select 1 from pg_stat_activity where pid = %s and backend_start is not distinct from %s"
"""Numbers of processes are given out again, so a session is known by its beginning as well, if we may see that."""

_ANSWER_SECONDS = 3.0
_TAKE_SECONDS = 6.0
_FORMER_SECONDS = 2.0
_FORMER_PAUSE_SECONDS = 0.05
"""How long, and how often, a lock is tried for while a former session of ours ends."""


class DatabaseError(Exception):
    """The database can't be opened; the message says why and what to do."""


class Unreachable(DatabaseError):
    """Its server does not answer, or does not let us in."""


class Lock(Protocol):
    """Held until it is closed or its process ends, however that comes."""

    def renew(self) -> bool:
        """Takes it again where it was lost; False where another process has it now. True while nobody can tell."""
        ...

    def is_lost(self) -> bool:
        """Whether another process could have it now. Waits for nothing."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Database:
    """An open database with the secrets that belong to it. `directory` is None where it is not a file."""

    url: str
    store: Store
    vault: Vault
    directory: Path | None

    @property
    def is_embedded(self) -> bool:
        return self.directory is not None


def _nobody(_sentence: str) -> None:
    pass


def open_database(
    environment: Mapping[str, str],
    *,
    answer_seconds: float | None = None,
    tell: Callable[[str], None] = _nobody,
    is_restoring: bool = False,
) -> Database:
    """Opens the database of this environment, creating an embedded one where there is none, and updates its schema.

    `answer_seconds` is for a server of clients, see `store.connect`; `tell` hears why it takes long. Only with
    `is_restoring` it opens one that a restore has not made fit yet. Raises DatabaseError, or SecretsError where an
    existing database's secrets are missing: it never gets new ones.
    """
    url = environment.get("DATABASE_URL", "").strip() or EMBEDDED_URL
    try:
        if url.startswith("sqlite:"):
            return _embedded(url, environment)
        return _server(url, environment, answer_seconds, tell, is_restoring=is_restoring)
    except (OSError, sqlite3.Error) as error:
        where = sqlite_path(url) if url.startswith("sqlite:") else "the database"
        raise DatabaseError(f"{where} can't be opened: {error}") from error
    except ValueError as error:
        raise DatabaseError(f"the database can't be opened: {error}") from error
    except psycopg.OperationalError as error:
        what = "only reads, as a standby does" if "read-only" in str(error) else "does not answer"
        raise Unreachable(f"PostgreSQL {what}: {type(error).__name__}") from None
    except psycopg.Error as error:
        raise DatabaseError(f"PostgreSQL refuses: {type(error).__name__}") from None


def _embedded(url: str, environment: Mapping[str, str]) -> Database:
    path = sqlite_path(url)
    secrets_path = path.parent / SECRETS_FILE
    is_new = not path.exists() or path.stat().st_size == 0
    if is_new:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not secrets_path.exists() and not all(environment.get(name) for name in SECRET_NAMES):
            create_secrets(secrets_path)
        if not path.exists():
            migrations.create_sqlite(path)
    secrets = find_secrets(secrets_path, environment)
    if migrations.is_older(migrations.sqlite_version(path)):
        migrations.upgrade(f"sqlite:///{path}")
    return Database(url, connect(url), _entered(url, Vault(secrets)), path.parent)


def _entered(url: str, vault: Vault) -> Vault:
    """The vault, after a look whether its ring opens what is in the database. Raises SecretsError."""
    now = time.time()
    with transaction(url) as tx:
        if not keyring.is_entered(tx, vault, now):
            keyring.enter(tx, vault, now)
    return vault


def find_secrets(path: Path, environment: Mapping[str, str]) -> Secrets:
    """Those of the environment, and from the file beside a SQLite database those it leaves out. Raises SecretsError."""
    given = {name: environment[name] for name in SECRET_NAMES if environment.get(name, "").strip()}
    try:
        return read_secrets({**read_secrets_file(path), **given})
    except SecretsError as error:
        raise SecretsError(
            f"{error}. They were made with the database and can't be made again: put {path} back, or set them in the"
            " environment."
        ) from None


def _server(
    url: str,
    environment: Mapping[str, str],
    answer_seconds: float | None,
    tell: Callable[[str], None],
    *,
    is_restoring: bool,
) -> Database:
    store = connect(url, answer_seconds=answer_seconds)
    try:
        secrets = read_secrets(environment)
    except SecretsError as error:
        raise SecretsError(f"{error}. With PostgreSQL every secret comes from the environment.") from None
    address = server_address(url, writes=answer_seconds is not None)
    current = schema_of(address)
    if not is_restoring:
        _refuse_half_restored(address)
    if migrations.is_older(current):
        migrations.upgrade(server_address(url, writes=True), tell)
    return Database(url, store, _entered(address, Vault(secrets)), None)


def _refuse_half_restored(url: str) -> None:
    """Raises DatabaseError, psycopg.Error."""
    with psycopg.connect(url, connect_timeout=5) as connection:
        found = connection.execute("select to_regclass(%s) is not null", (RESTORE_MARK,)).fetchone()
    if found == (True,):
        raise DatabaseError(_HALF_RESTORED)


def schema_of(url: str) -> str:
    """The revision a database stands at, empty for an empty one. Raises DatabaseError, psycopg.Error, sqlite3.Error."""
    if url.startswith("sqlite:"):
        return migrations.sqlite_version(sqlite_path(url))
    with psycopg.connect(server_address(url), connect_timeout=5) as connection:
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise DatabaseError(f"the database is encoded in {encoding}: create one with encoding 'UTF8' instead")
        return _server_version(connection)


def _server_version(connection: psycopg.Connection[tuple[str]]) -> str:
    found = connection.execute("select count(*)::text from pg_tables where tablename = 'alembic_version'").fetchone()
    if found == ("0",):
        return ""
    row = connection.execute("select version_num from alembic_version").fetchone()
    return row[0] if row else ""


class _FileLock:
    def __init__(self, path: Path, refusal: str) -> None:
        self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise DatabaseError(refusal) from None

    def renew(self) -> bool:
        return True

    def is_lost(self) -> bool:
        return False

    def close(self) -> None:
        os.close(self._descriptor)


class _ServerLock:
    """An advisory lock, which lives as long as its connection: a restarted PostgreSQL has forgotten it.

    Where only this side knows that the connection is gone, the server keeps the lock for a session of ours that nobody
    uses any more: that one is ended first.
    """

    def __init__(self, url: str, number: int, refusal: str, *, is_shared: bool = False, writes: bool = False) -> None:
        self._address = server_address(url, writes=writes)
        self._number = number
        self._function = "pg_try_advisory_lock_shared" if is_shared else "pg_try_advisory_lock"
        self._connection: psycopg.Connection[Any] | None = None
        self._sessions: list[tuple[Any, ...]] = []
        """Those of ours that may have it: the answer that one took it can be lost as well."""
        if not self.renew():
            raise DatabaseError(refusal)

    def renew(self) -> bool:
        if self._connection is not None:
            if _answers(self._connection):
                return True
            self._connection.close()
            self._connection = None
        try:
            connection = psycopg.connect(self._address, autocommit=True, connect_timeout=5)
        except psycopg.OperationalError:
            return True
        is_taken_over = False
        with suppress(psycopg.Error, Unavailable), watched(connection, _TAKE_SECONDS):
            connection.execute(_NOTICE_GONE)
            is_taken_over = not self._take(connection)
        if self._connection is not connection:
            connection.close()
        return not is_taken_over

    def _take(self, connection: psycopg.Connection[Any]) -> bool:
        """Takes the lock on this connection, if it can be had; False where another process has it."""
        former, own = self._sessions, connection.execute(_SESSION).fetchall()
        self._sessions = former + own
        until = time.monotonic() + _FORMER_SECONDS
        while True:
            former = [session for session in former if _end(connection, session)]
            if connection.execute(f"select {self._function}(%s)", (self._number,)).fetchone() == (True,):
                self._sessions, self._connection = own, connection
                return True
            if not former:
                return False
            if time.monotonic() > until:
                self._sessions = former
                return True  # held for us, though we can't get at it: it is tried again until the server lets go
            time.sleep(_FORMER_PAUSE_SECONDS)

    def is_lost(self) -> bool:
        if self._connection is None:
            return True
        try:
            self._connection.pgconn.consume_input()  # which is where the end of the connection shows, if it has come
        except psycopg.OperationalError:
            return True
        return False

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _answers(connection: psycopg.Connection[Any]) -> bool:
    """Whether a connection is still one. Its wire may have been cut in silence, so it is waited for only so long."""
    try:
        with watched(connection, _ANSWER_SECONDS):
            connection.execute("select 1")
    except psycopg.Error:
        return False
    except Unavailable:
        pass  # no descriptor left to watch it with, which says nothing about it
    return True


def _end(connection: psycopg.Connection[Any], session: tuple[Any, ...]) -> bool:
    """Has the server end a session of ours, if it may; whether there was one (which takes a moment to end)."""
    if connection.execute(_IS_THERE, session).fetchone() is None:
        return False
    with suppress(psycopg.errors.InsufficientPrivilege):
        connection.execute("select pg_terminate_backend(%s)", session[:1])
    return True


def lock_for_serving(database: Database, *, is_shared: bool = False) -> Lock:
    """Makes this process the one that serves from the database, or one of those that share it.

    Raises DatabaseError where another one serves alone, or, unless this one shares, at all.
    """
    if database.directory is not None:
        return _FileLock(sqlite_path(database.url).with_suffix(".lock"), _SERVED_FILE)
    return _ServerLock(database.url, SERVE_LOCK, _SERVED, is_shared=is_shared, writes=True)


def serving_processes(tx: Tx) -> int:
    """How many processes serve from this PostgreSQL database, or work on it: each holds the lock for that."""
    row = tx.one(
        "select count(*) as processes from pg_locks where locktype = 'advisory' and objsubid = 1 and granted"
        " and classid::bigint << 32 | objid::bigint = :lock"
        " and database = (select oid from pg_database where datname = current_database())",
        lock=SERVE_LOCK,
    )
    return int(row["processes"]) if row is not None else 0


def lock_for_backup(url: str) -> Lock:
    """Makes this process the one that takes a backup of the database. Raises DatabaseError where another one is."""
    if url.startswith("sqlite:"):
        return _FileLock(sqlite_path(url).with_suffix(".backup-lock"), _BEING_BACKED_UP)
    return _ServerLock(url, BACKUP_LOCK, _BEING_BACKED_UP)


_SERVED_FILE = (
    "another simroute serves from this SQLite file, and only one can. Stop it first, or let several serve from"
    " PostgreSQL: set DATABASE_URL=postgresql://… and REDIS_URL=redis://… for each of them"
)
_SERVED = (
    "another simroute serves from this database. Several can, if each has the same REDIS_URL (and DATABASE_URL and"
    " secrets): set it for all of them, or stop the other one first"
)
_HALF_RESTORED = (
    "a restore into this database was not finished, and its old state would be acted upon: drop the database, create an"
    " empty one and run simroute restore again"
)
_BEING_BACKED_UP = "another backup of this database is being taken: wait until it is done"
