"""Usage by day, fuses of keys that buy and never receive, and which numbers an account was handed for a service."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Micros = sa.BigInteger
Time = sa.Double
IS_UNCOUNTED = sa.text("counted = 0")
IS_WITHOUT_CODE = sa.text("ended_at is null and status in ('opening', 'waiting') and product <> 'extension'")


def upgrade() -> None:
    _usage()
    _fuses()
    _handed_numbers()


def _usage() -> None:
    # 1 once an ended activation is part of usage_days. What ended before there was such a table is counted as well.
    op.add_column("activations", sa.Column("counted", sa.Integer, nullable=False, server_default="0"))
    op.create_index(
        "activations_uncounted",
        "activations",
        ["account_id", "opened_at"],
        sqlite_where=IS_UNCOUNTED,
        postgresql_where=IS_UNCOUNTED,
    )
    op.create_table(
        "usage_days",
        sa.Column("account_id", Id, primary_key=True, autoincrement=False),
        # Days since the epoch, UTC.
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key_id", Id, primary_key=True, autoincrement=False),
        sa.Column("service", sa.Text, primary_key=True),
        sa.Column("country", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("upstream", sa.Text, primary_key=True),
        sa.Column("currency", sa.Text, primary_key=True),
        sa.Column("cost_currency", sa.Text, primary_key=True),
        sa.Column("bought", sa.BigInteger, nullable=False),
        sa.Column("delivered", sa.BigInteger, nullable=False),
        sa.Column("cancelled", sa.BigInteger, nullable=False),
        sa.Column("expired", sa.BigInteger, nullable=False),
        # What buyers were charged, and what the accounts at the top of theirs pay of it.
        sa.Column("spent", Micros, nullable=False),
        sa.Column("sold", Micros, nullable=False),
        sa.Column("cost", Micros, nullable=False),
    )
    op.create_index("usage_days_by_day", "usage_days", ["day"])
    op.create_table(
        "usage_margins",
        # Who earned it, by what an account below it bought.
        sa.Column("seller_id", Id, primary_key=True, autoincrement=False),
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("account_id", Id, primary_key=True, autoincrement=False),
        sa.Column("key_id", Id, primary_key=True, autoincrement=False),
        sa.Column("service", sa.Text, primary_key=True),
        sa.Column("country", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("upstream", sa.Text, primary_key=True),
        sa.Column("currency", sa.Text, primary_key=True),
        sa.Column("amount", Micros, nullable=False),
    )


def _fuses() -> None:
    op.create_table(
        "fuses",
        # The first of the keys that replaced each other.
        sa.Column("key_id", Id, primary_key=True, autoincrement=False),
        # Purchases that ended without a code since the last one.
        sa.Column("missed", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("missed_at", Time, nullable=False, server_default="0"),
        # Activations up to this id are counted already.
        sa.Column("after_id", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("stopped_until", Time),
        # The key's own settings; null for the deployment's.
        sa.Column("slow_after", sa.BigInteger),
        sa.Column("slow_seconds", Time),
        sa.Column("stop_after", sa.BigInteger),
        sa.Column("cooldown_seconds", Time),
        sa.Column("window_seconds", Time),
    )
    op.create_table(
        "fuse_stops",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        sa.Column("key_id", Id, nullable=False),
        sa.Column("account_id", Id, nullable=False),
        sa.Column("misses", sa.BigInteger, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("until", Time, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("fuse_stops_by_account", "fuse_stops", ["account_id", "id"])
    op.create_index(
        "activations_without_code",
        "activations",
        ["key_id", "refundable_until"],
        sqlite_where=IS_WITHOUT_CODE,
        postgresql_where=IS_WITHOUT_CODE,
    )


def _handed_numbers() -> None:
    op.create_table(
        "handed_numbers",
        sa.Column("account_id", Id, primary_key=True, autoincrement=False),
        sa.Column("service", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("at", Time, nullable=False),
    )
    op.create_index("handed_numbers_by_time", "handed_numbers", ["at"])
