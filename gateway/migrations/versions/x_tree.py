"""Accounts in a tree, what each account and key may do, the counters behind their caps, and transfers.

A subject is `account:ID`, or `key:ID` with the id of the first of the keys that replaced each other.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "x_tree"
down_revision = "0006"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Micros = sa.BigInteger
Time = sa.Double


def upgrade() -> None:
    _tree()
    _rules()
    _counters()
    _transfers()


def _tree() -> None:
    op.create_table(
        "account_tree",
        sa.Column("account_id", Id, sa.ForeignKey("accounts.id"), primary_key=True),
        sa.Column("ancestor_id", Id, sa.ForeignKey("accounts.id"), primary_key=True),
        sa.Column("depth", sa.Integer, nullable=False),
    )
    op.create_index("account_tree_below", "account_tree", ["ancestor_id", "depth"])
    op.execute(
        "with recursive line (account_id, ancestor_id, depth) as ("
        " select id, id, 0 from accounts"
        " union all select l.account_id, a.parent_id, l.depth + 1 from line l join accounts a on a.id = l.ancestor_id"
        " where a.parent_id is not null"
        ") insert into account_tree (account_id, ancestor_id, depth) select account_id, ancestor_id, depth from line"
    )


def _rules() -> None:
    op.create_table(
        "rules",
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("suspended_at", Time),
        sa.Column("expires_at", Time),
        sa.Column("services", sa.Text),
        sa.Column("denied_services", sa.Text),
        sa.Column("countries", sa.Text),
        sa.Column("ip_ranges", sa.Text),
        sa.Column("dialects", sa.Text),
        sa.Column("price_max", Micros),
        sa.Column("open_max", sa.BigInteger),
        sa.Column("spend_hour", Micros),
        sa.Column("spend_day", Micros),
        sa.Column("spend_month", Micros),
        sa.Column("spend_total", Micros),
    )
    op.add_column("api_keys", sa.Column("name", sa.Text, nullable=False, server_default=""))
    # The first of the keys that replaced each other: they share rules and counters. Null for a first one.
    op.add_column("api_keys", sa.Column("origin_id", Id))
    op.create_index("api_keys_by_origin", "api_keys", ["origin_id"])
    # When a key that was replaced stops working.
    op.add_column("api_keys", sa.Column("retires_at", Time))


def _counters() -> None:
    op.create_table(
        "counters",
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("period", sa.Text, primary_key=True),
        sa.Column("starts_at", sa.BigInteger, primary_key=True),
        sa.Column("amount", Micros, sa.CheckConstraint("amount >= 0"), nullable=False),
    )
    op.create_index("holds_by_time", "holds", ["account_id", "opened_at"])


def _transfers() -> None:
    op.create_table(
        "transfers",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        # Of the two accounts the one above, whose references these are.
        sa.Column("upper_id", Id, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("from_id", Id, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("to_id", Id, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("amount", Micros, sa.CheckConstraint("amount > 0"), nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("reference", sa.Text),
        sa.Column("ledger_id", Id, sa.ForeignKey("ledger.id"), unique=True),
        sa.Column("at", Time, nullable=False),
        sa.UniqueConstraint("upper_id", "reference", name="one_transfer_reference_once"),
        sqlite_autoincrement=True,
    )
