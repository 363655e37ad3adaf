"""Opening the database: its secrets, its schema, and who may serve from it."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from alembic import command
from psycopg.conninfo import make_conninfo

from gateway import database as opening
from gateway import migrations
from gateway.database import (
    SERVE_LOCK,
    Database,
    DatabaseError,
    Unreachable,
    lock_for_serving,
    open_database,
    schema_of,
    serving_processes,
)
from gateway.store import Conflict, Tx, connect, sqlite_path, transaction
from gateway.vault import SECRET_NAMES, SecretsError
from tests.harness import config_directory, environment, fresh_secrets, server
from tests.journeys.cut_wire import proxy


async def _open(values: dict[str, str]) -> Database:
    database = open_database(values)
    await database.store.close()
    return database


async def test_an_address_may_name_several_hosts(postgres_url: str) -> None:
    assert "host=" in postgres_url
    url = postgres_url.replace("host=", "host=/nowhere,") + "&port=5432,5432"
    database = open_database(environment(url), answer_seconds=2.0)
    await database.store.close()
    assert schema_of(postgres_url) == migrations.LATEST


async def test_a_new_embedded_database_gets_secrets_only_its_owner_can_read(tmp_path: Path) -> None:
    await _open({"DATABASE_URL": f"sqlite:///{tmp_path}/var/simroute.db"})
    secrets = tmp_path / "var" / "secrets.env"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert all(f"{name}=" in secrets.read_text() for name in SECRET_NAMES)
    assert stat.S_IMODE((tmp_path / "var" / "simroute.db").stat().st_mode) == 0o600


async def test_an_existing_database_never_gets_new_secrets(tmp_path: Path) -> None:
    values = {"DATABASE_URL": f"sqlite:///{tmp_path}/simroute.db"}
    await _open(values)
    (tmp_path / "secrets.env").unlink()
    with pytest.raises(SecretsError, match="can't be made again"):
        open_database(values)
    assert not (tmp_path / "secrets.env").exists()


async def test_secrets_of_the_environment_write_no_file(tmp_path: Path) -> None:
    await _open(environment(f"sqlite:///{tmp_path}/simroute.db"))
    assert not (tmp_path / "secrets.env").exists()


async def test_postgresql_takes_every_secret_from_the_environment(postgres_url: str) -> None:
    secrets = fresh_secrets()
    del secrets["INDEX_KEY"]
    with pytest.raises(SecretsError, match="INDEX_KEY"):
        open_database({"DATABASE_URL": postgres_url, **secrets})


async def test_both_databases_stand_at_the_latest_revision_and_opening_again_changes_nothing(database_url: str) -> None:
    values = environment(database_url)
    for _ in range(2):
        database = open_database(values)
        row = await database.store.read(lambda tx: tx.one("select version_num from alembic_version"))
        assert row is not None
        assert row["version_num"] == migrations.LATEST
        await database.store.close()


def test_a_database_that_keeps_no_unicode_is_refused_in_words(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        name = f"{connection.info.dbname}_ascii"
        connection.execute(f"create database {name} encoding 'SQL_ASCII' template template0 locale 'C'")
    address = make_conninfo(postgres_url, dbname=name)
    try:
        with pytest.raises(DatabaseError, match="encoded in SQL_ASCII: create one with encoding 'UTF8'"):
            schema_of(address)
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"drop database {name} with (force)")


def test_an_address_of_another_kind_is_refused_in_words() -> None:
    with pytest.raises(DatabaseError, match="postgresql://"):
        open_database(environment("mysql://somewhere/db"))


async def test_only_one_process_serves_from_a_database(database_url: str) -> None:
    database = await _open(environment(database_url))
    first = lock_for_serving(database)
    with pytest.raises(DatabaseError, match="another simroute serves"):
        lock_for_serving(database)
    first.close()
    lock_for_serving(database).close()


async def test_processes_that_share_a_database_are_counted_as_long_as_they_live(postgres_url: str) -> None:
    database = await _open(environment(postgres_url))
    first, second = (lock_for_serving(database, is_shared=True) for _ in range(2))
    assert _serving(postgres_url) == 2
    second.close()
    deadline = time.monotonic() + 30
    while _serving(postgres_url) != 1:
        assert time.monotonic() < deadline
    first.close()


def _serving(url: str) -> int:
    with transaction(url) as tx:
        return serving_processes(tx)


async def test_a_lock_that_postgresql_forgot_is_taken_again_unless_another_process_has_it(postgres_url: str) -> None:
    database = await _open(environment(postgres_url))
    lock = lock_for_serving(database)
    with psycopg.connect(postgres_url, autocommit=True) as other:
        _forget(other)
        assert lock.renew()
        _forget(other)
        assert other.execute("select pg_try_advisory_lock(%s)", (SERVE_LOCK,)).fetchone() == (True,)
        assert not lock.renew()
    lock.close()


def _forget(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """What a restart does to the lock's connection, and waits until it is done."""
    connection.execute(
        "select pg_terminate_backend(pid, 5000) from pg_locks where locktype = 'advisory'"
        " and database = (select oid from pg_database where datname = current_database())"
    )


@pytest.fixture
def limited(postgres_url: str) -> Iterator[str]:
    """A role that may end no sessions but its own, which those that log in as somebody else are not."""
    name = f"limited_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"create role {name}")
        yield name
        connection.execute(f"drop role {name}")


def _holders(connection: psycopg.Connection[tuple[int]]) -> list[int]:
    """The sessions that hold the lock for serving."""
    rows = connection.execute(
        "select pid from pg_locks where locktype = 'advisory' and objid = %s and granted"
        " and database = (select oid from pg_database where datname = current_database())",
        (SERVE_LOCK,),
    )
    return [row[0] for row in rows]


async def test_a_lock_whose_wire_was_cut_in_silence_is_taken_again(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server knows nothing of the cut, and keeps the lock for the session that nobody hears any more."""
    monkeypatch.setattr(opening, "_ANSWER_SECONDS", 1.0)
    database = await _open(environment(postgres_url))
    async with proxy(postgres_url) as wire:
        address = make_conninfo(postgres_url, host="127.0.0.1", port=wire.port)
        with psycopg.connect(postgres_url, autocommit=True) as other:
            lock = await asyncio.to_thread(lock_for_serving, replace(database, url=address))
            before = _holders(other)
            wire.swallow()
            assert await asyncio.to_thread(lock.renew)
            assert not lock.is_lost()
            after = _holders(other)
            assert len(before) == len(after) == 1
            assert before != after
            with pytest.raises(DatabaseError, match="another simroute serves"):
                lock_for_serving(database)
            wire.swallow()
            assert other.execute("select pg_terminate_backend(%s, 5000)", after).fetchone() == (True,)
            assert other.execute("select pg_try_advisory_lock(%s)", (SERVE_LOCK,)).fetchone() == (True,)
            assert not await asyncio.to_thread(lock.renew)
            assert _holders(other) == [other.info.backend_pid]


async def test_a_lock_of_a_session_that_may_not_be_ended_is_waited_for(
    postgres_url: str, limited: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(opening, "_FORMER_SECONDS", 0.2)
    database = await _open(environment(postgres_url))
    async with proxy(postgres_url) as wire:
        address = make_conninfo(postgres_url, host="127.0.0.1", port=wire.port, options=f"-c role={limited}")
        lock = await asyncio.to_thread(lock_for_serving, replace(database, url=address))
        wire.swallow()
        assert await asyncio.to_thread(lock.renew)
        assert lock.is_lost()
        with psycopg.connect(postgres_url, autocommit=True) as other:
            _forget(other)
        assert await asyncio.to_thread(lock.renew)
        assert not lock.is_lost()
        lock.close()


def test_a_server_whose_lock_is_lost_ends_with_status_1(postgres_url: str, tmp_path: Path) -> None:
    """Whoever restarts what failed brings it back once the other one is gone."""
    with server(config_directory(tmp_path), environment(postgres_url), tmp_path / "log") as running:
        with psycopg.connect(postgres_url, autocommit=True) as other:
            _forget(other)
            assert other.execute("select pg_try_advisory_lock(%s)", (SERVE_LOCK,)).fetchone() == (True,)
            assert running.process.wait(40) == 1
        assert "another simroute has taken over" in (tmp_path / "log").read_text()


NOTICE = (
    "insert into notices (account_id, activation_id, message_id, format, state, next_at, created_at)"
    " values (1, :activation, :message, :format, 'pending', 1, 1) returning id"
)


def _before_rentals(url: str) -> None:
    command.upgrade(migrations.config(url), "0005")


def _sell_as_before(tx: Tx) -> tuple[int, int, int]:
    """An activation with a message and its notice, as code wrote them that knew of no rentals."""
    tx.execute("insert into accounts (name, currency, is_demo, created_at) values ('alice', 'USD', 0, 1)")
    tx.execute("insert into api_keys (account_id, digest, hint, created_at) values (1, 'd', 'h', 1)")
    activation = tx.insert(
        "insert into activations (account_id, key_id, service, country, operator, status, price, currency, opened_at,"
        " fingerprint, config_version) values (1, 1, 'tg', 6, '', 'received', 1, 'USD', 1, '', '') returning id"
    )
    return activation, *_message_as_before(tx, activation, "one")


def _message_as_before(tx: Tx, activation: int, identity: str) -> tuple[int, int]:
    message = tx.insert(
        "insert into messages (activation_id, identity, round, code_sealed, text_sealed, received_at, is_shown)"
        " values (:activation, :identity, 1, '', '', 1, 1) returning id",
        activation=activation,
        identity=identity,
    )
    return message, tx.insert(NOTICE, activation=activation, message=message, format="sms_activate")


async def test_what_was_written_before_rentals_is_kept_and_can_still_be_written(database_url: str) -> None:
    values = environment(database_url)
    if database_url.startswith("sqlite"):
        migrations.create_sqlite(sqlite_path(database_url))
    _before_rentals(database_url)
    store = connect(database_url)
    activation, message, first = await store.run(_sell_as_before)
    await store.close()
    database = open_database(values)
    store = database.store
    rows = await store.read(lambda tx: [dict(row) for row in tx.all("select id, message_id, format from notices")])
    assert rows == [{"id": first, "message_id": message, "format": "sms_activate"}]
    _, second = await store.run(_message_as_before, activation, "two")

    def tell_again(tx: Tx) -> int:
        return tx.insert(NOTICE, activation=activation, message=message, format="rent")

    third = await store.run(tell_again)
    assert first < second < third
    with pytest.raises(Conflict):
        await store.run(tell_again)
    row = await store.read(lambda tx: tx.one("select product, parent_id, refundable_until from activations"))
    assert row is not None
    assert dict(row) == {"product": "sms", "parent_id": None, "refundable_until": None}
    await store.close()


async def test_a_schema_of_a_newer_version_is_left_as_it_is(sqlite_url: str) -> None:
    """It was made to be lived with: processes are replaced one by one."""
    values = environment(sqlite_url)
    await _open(values)
    with sqlite3.connect(sqlite_path(sqlite_url)) as connection:
        connection.execute("update alembic_version set version_num = '9999'")
    connection.close()
    database = open_database(values)
    await database.store.run(lambda tx: tx.execute("update revisions set value = value"))
    row = await database.store.read(lambda tx: tx.one("select version_num from alembic_version"))
    assert row is not None
    assert row["version_num"] == "9999"
    await database.store.close()


def _reading(url: str) -> psycopg.Connection[tuple[object, ...]]:
    """A reader of a table that migrations change, as `pg_dump` is one."""
    _before_rentals(url)
    connection = psycopg.connect(url)
    connection.execute("select count(*) from activations")
    return connection


def test_a_migration_that_waits_for_a_table_lets_others_use_it(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "TRY_PAUSE_SECONDS", 2.0)
    is_told = threading.Event()
    said: list[str] = []

    def tell(sentence: str) -> None:
        said.append(sentence)
        is_told.set()

    with _reading(postgres_url) as reader:
        work = threading.Thread(target=migrations.upgrade, args=(postgres_url, tell))
        work.start()
        assert is_told.wait(20)
        with psycopg.connect(postgres_url, options="-c lock_timeout=10s") as other:
            other.execute("update activations set round = round where id = 1")
            assert work.is_alive()
        reader.close()
        work.join(30)
    assert schema_of(postgres_url) == migrations.LATEST
    assert len(said) == 1
    assert "is in use" in said[0]


def test_a_migration_gives_up_in_words_where_a_table_is_not_to_be_had(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "TRY_SECONDS", 0.5)
    with _reading(postgres_url), pytest.raises(DatabaseError, match=r"is in use .* Nothing was changed"):
        open_database(environment(postgres_url))
    assert schema_of(postgres_url) == "0005"
    open_database(environment(postgres_url))
    assert schema_of(postgres_url) == migrations.LATEST


def test_one_start_waits_for_another_one_s_migration_as_long_as_it_takes(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as other:
        other.execute("select pg_advisory_xact_lock(%s)", (0x51_40_0001,))
        threading.Timer(2.5, other.commit).start()
        migrations.upgrade(postgres_url, pytest.fail)
    assert schema_of(postgres_url) == migrations.LATEST


def test_a_server_of_clients_does_not_take_a_standby_for_its_database(postgres_url: str) -> None:
    separator = "&" if "?" in postgres_url else "?"
    standby = f"{postgres_url}{separator}options=-cdefault_transaction_read_only%3Don"
    with pytest.raises(Unreachable, match="only reads, as a standby does"):
        open_database(environment(standby), answer_seconds=2.0)
