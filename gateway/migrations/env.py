"""Alembic's entry: one connection, one transaction, and on PostgreSQL a lock so that two starts do not race."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, pool, text

UPGRADE_LOCK = 0x51_40_0001
"""A number of our own for PostgreSQL's advisory lock."""


def run() -> None:
    url = context.config.get_main_option("sqlalchemy.url") or ""
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"select pg_advisory_xact_lock({UPGRADE_LOCK})"))
        context.configure(connection=connection, target_metadata=None)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    engine.dispose()


run()
