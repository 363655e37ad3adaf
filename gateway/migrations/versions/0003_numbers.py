"""Numbers of one's own: the pool, its leases, and what came in for it.

What is sealed is encrypted under `DATA_ENCRYPTION_KEYS`; digests and identities are made under `INDEX_KEY`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Micros = sa.BigInteger
Time = sa.Double
IS_OPEN = sa.text("ended_at is null")


def upgrade() -> None:
    _numbers()
    _leases()
    _messages()


def _id() -> sa.Column[int]:
    return sa.Column("id", Id, sa.Identity(), primary_key=True)


def _refers(name: str, table: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, Id, sa.ForeignKey(f"{table}.id"), nullable=nullable)


def _numbers() -> None:
    op.create_table(
        "numbers",
        _id(),
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        sa.Column("number_sealed", sa.Text, nullable=False),
        sa.Column("country", sa.Integer, nullable=False),
        sa.Column("carrier", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("services", sa.Text, nullable=False),
        sa.Column("device", sa.Text),
        sa.Column("daily_cap", sa.Integer),
        sa.Column("is_enabled", sa.Integer, nullable=False),
        sa.Column("quarantined_until", Time, nullable=False),
        sa.Column("used_at", Time, nullable=False),
        # Grows with whatever changes what may be leased: a purchase that saw an older one looks again.
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("removed_at", Time),
        sqlite_autoincrement=True,
    )
    op.create_index("numbers_by_use", "numbers", ["upstream", "country", "used_at", "id"])
    op.create_index("numbers_by_device", "numbers", ["upstream", "device"], unique=True)


def _leases() -> None:
    op.create_table(
        "number_leases",
        _id(),
        sa.Column("upstream", sa.Text, nullable=False),
        _refers("number_id", "numbers"),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("price", Micros, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("messages", sa.Integer, nullable=False),
        sa.Column("is_waiting", sa.Integer, nullable=False),
        sa.Column("opened_at", Time, nullable=False),
        sa.Column("expires_at", Time, nullable=False),
        sa.Column("ended_at", Time),
        sa.Column("cool_until", Time, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "number_leases_one_open",
        "number_leases",
        ["number_id", "service"],
        unique=True,
        sqlite_where=IS_OPEN,
        postgresql_where=IS_OPEN,
    )
    op.create_index(
        "number_leases_open",
        "number_leases",
        ["upstream", "expires_at"],
        sqlite_where=IS_OPEN,
        postgresql_where=IS_OPEN,
    )
    op.create_index("number_leases_by_number", "number_leases", ["number_id", "opened_at"])


def _messages() -> None:
    op.create_table(
        "number_messages",
        _id(),
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        _refers("number_id", "numbers", nullable=True),
        _refers("lease_id", "number_leases", nullable=True),
        sa.Column("to_sealed", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("sender_sealed", sa.Text, nullable=False),
        sa.Column("text_sealed", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("received_at", Time, nullable=False),
        sa.Column("recorded_at", Time, nullable=False),
        sa.UniqueConstraint("upstream", "identity"),
        sqlite_autoincrement=True,
    )
    op.create_index("number_messages_by_lease", "number_messages", ["lease_id"])
    op.create_index("number_messages_by_time", "number_messages", ["upstream", "recorded_at"])
    op.create_table(
        "number_parts",
        _id(),
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        # Which message it belongs to: a digest of source, destination, sender, reference and how many there are.
        sa.Column("whole", sa.Text, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        _refers("number_id", "numbers"),
        _refers("message_id", "number_messages", nullable=True),
        sa.Column("to_sealed", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("sender_sealed", sa.Text, nullable=False),
        sa.Column("text_sealed", sa.Text, nullable=False),
        sa.Column("received_at", Time, nullable=False),
        sa.Column("recorded_at", Time, nullable=False),
        sa.UniqueConstraint("upstream", "identity"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "number_parts_waiting",
        "number_parts",
        ["upstream", "whole"],
        sqlite_where=sa.text("message_id is null"),
        postgresql_where=sa.text("message_id is null"),
    )
    op.create_index("number_parts_by_message", "number_parts", ["message_id"])
