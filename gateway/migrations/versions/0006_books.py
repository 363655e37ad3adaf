"""Seals over the ledger and the audit log, the audit log itself, and what upstreams said our balance there was."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Time = sa.Double


def upgrade() -> None:
    op.create_table(
        "seals",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        sa.Column("chain", sa.Text, nullable=False),
        sa.Column("first_id", sa.BigInteger, nullable=False),
        sa.Column("last_id", sa.BigInteger, nullable=False),
        sa.Column("row_count", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("sealed_at", Time, nullable=False),
        sa.CheckConstraint("last_id >= first_id", name="seal_has_rows"),
        sa.UniqueConstraint("chain", "first_id", name="one_seal_once"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "audit",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        sa.Column("at", Time, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("account_id", sa.BigInteger),  # no foreign key: entries outlive what they tell of
        sa.Column("detail", sa.Text, nullable=False, server_default="{}"),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_by_account", "audit", ["account_id", "id"])
    op.create_table(
        "upstream_balances",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("upstream_balances_by_time", "upstream_balances", ["upstream", "at"])
    op.create_index("ledger_by_debit", "ledger", ["debit", "id"])
    op.create_index("ledger_by_credit", "ledger", ["credit", "id"])
