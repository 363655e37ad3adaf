"""Opening the database: its secrets, its schema, and who may serve from it."""

from __future__ import annotations

import sqlite3
import stat
import time
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from psycopg.conninfo import make_conninfo

from gateway import migrations
from gateway.database import (
    SERVE_LOCK,
    Database,
    DatabaseError,
    lock_for_serving,
    open_database,
    schema_of,
    serving_processes,
)
from gateway.store import Conflict, Tx, connect, sqlite_path, transaction
from gateway.vault import SECRET_NAMES, SecretsError
from tests.harness import environment, fresh_secrets


async def _open(values: dict[str, str]) -> Database:
    database = open_database(values)
    await database.store.close()
    return database


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


NOTICE = (
    "insert into notices (account_id, activation_id, message_id, format, state, next_at, created_at)"
    " values (1, :activation, :message, :format, 'pending', 1, 1) returning id"
)


def _before_rentals(url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations.HERE))
    config.set_main_option("sqlalchemy.url", migrations.sqlalchemy_url(url).replace("%", "%%"))
    command.upgrade(config, "0005")


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
