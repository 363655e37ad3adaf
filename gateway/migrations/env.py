"""Alembic's entry: one connection, one transaction under a lock, so that two starts do not race, and one that is cut
short leaves the schema as it was.
"""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import Connection, Engine, create_engine, event, pool, text

UPGRADE_LOCK = 0x51_40_0001
"""A number of our own for PostgreSQL's advisory lock."""

WAIT_SECONDS = 1.5
"""How long a table is waited for. Whoever asks for it meanwhile queues behind us, and its client waits for two."""


def run() -> None:
    url, connect = context.config.get_main_option("sqlalchemy.url"), context.config.attributes.get("connect")
    engine = create_engine(url or "postgresql+psycopg://", poolclass=pool.NullPool, **_by(connect))
    if engine.dialect.name == "sqlite":
        _begin_for_tables_too(engine)
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"select pg_advisory_xact_lock({UPGRADE_LOCK})"))  # as long as it takes
            connection.execute(text(f"set local lock_timeout = {WAIT_SECONDS * 1000:.0f}"))
        context.configure(connection=connection, target_metadata=None, transactional_ddl=True)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    engine.dispose()


def _by(connect: Any) -> dict[str, Any]:
    return {} if connect is None else {"creator": connect}


def _begin_for_tables_too(engine: Engine) -> None:
    """By itself Python's sqlite3 begins a transaction for rows only: each table that is made would stay.

    What a migration takes away is overwritten in the file, as by `SqliteStore`.
    """

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        connection.execute("pragma secure_delete = on")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("begin immediate")


run()
