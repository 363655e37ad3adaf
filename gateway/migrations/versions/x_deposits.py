"""Payments by reference, vouchers and what is set aside for them, and accounts that are recharged by themselves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "x_deposits"
down_revision = "0010"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Micros = sa.BigInteger
Time = sa.Double


def upgrade() -> None:
    _payments()
    _vouchers()
    _recharges()


def _payments() -> None:
    op.create_table(
        "payments",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("account_id", Id, sa.ForeignKey("accounts.id")),
        # Whom the payment was said to be for; there may be no such account.
        sa.Column("told_account", sa.Text, nullable=False, server_default=""),
        sa.Column("amount", Micros, sa.CheckConstraint("amount >= 0"), nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("ledger_id", Id, sa.ForeignKey("ledger.id"), unique=True),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("note", sa.Text, nullable=False, server_default=""),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("closed_at", Time),
        sa.CheckConstraint("state in ('booked', 'unbooked', 'reversal', 'dismissed')", name="payment_state"),
        sa.UniqueConstraint("source", "reference", name="one_payment_once"),
        sqlite_autoincrement=True,
    )
    is_open = sa.text("state in ('unbooked', 'reversal')")
    op.create_index("payments_open", "payments", ["id"], sqlite_where=is_open, postgresql_where=is_open)
    op.create_index("payments_by_account", "payments", ["account_id", "id"])


def _vouchers() -> None:
    op.create_table(
        "voucher_batches",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        # Null where the operator issued it.
        sa.Column("issuer_id", Id, sa.ForeignKey("accounts.id")),
        sa.Column("amount", Micros, sa.CheckConstraint("amount > 0"), nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("is_demo", sa.Integer, nullable=False),
        sa.Column("voucher_count", sa.Integer, nullable=False),
        sa.Column("note", sa.Text, nullable=False, server_default=""),
        sa.Column("issued_at", Time, nullable=False),
        sa.Column("expires_at", Time),
        # Once no voucher of it can be redeemed any more.
        sa.Column("closed_at", Time),
        sqlite_autoincrement=True,
    )
    op.create_index("voucher_batches_by_issuer", "voucher_batches", ["issuer_id", "id"])
    op.create_table(
        "vouchers",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        sa.Column("batch_id", Id, sa.ForeignKey("voucher_batches.id"), nullable=False),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="open"),
        sa.Column("redeemed_by", Id, sa.ForeignKey("accounts.id")),
        sa.Column("ledger_id", Id, sa.ForeignKey("ledger.id"), unique=True),
        sa.Column("ended_at", Time),
        sa.CheckConstraint("state in ('open', 'redeemed', 'revoked', 'expired')", name="voucher_state"),
        sqlite_autoincrement=True,
    )
    op.create_index("vouchers_by_batch", "vouchers", ["batch_id", "state"])
    op.create_table(
        "voucher_tries",
        sa.Column("account_id", Id, sa.ForeignKey("accounts.id"), primary_key=True),
        sa.Column("starts_at", sa.BigInteger, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
    )


def _recharges() -> None:
    op.create_table(
        "recharges",
        sa.Column("account_id", Id, sa.ForeignKey("accounts.id"), primary_key=True),
        sa.Column("is_on", sa.Integer, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("threshold", Micros, sa.CheckConstraint("threshold > 0"), nullable=False),
        sa.Column("amount", Micros, sa.CheckConstraint("amount > 0"), nullable=False),
        sa.Column("month_max", Micros, nullable=False),
        sa.Column("cool_down_seconds", sa.Double, nullable=False),
        sa.Column("paused_at", Time),
        sa.Column("pause_seconds", sa.Double, nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("problem", sa.Text, nullable=False, server_default=""),
        sa.CheckConstraint("source in ('parent', 'hook')", name="recharge_source"),
    )
    op.create_table(
        "recharge_runs",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        sa.Column("account_id", Id, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("reference", sa.Text, nullable=False, unique=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("amount", Micros, sa.CheckConstraint("amount > 0"), nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("month", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("lapses_at", Time, nullable=False),
        sa.Column("next_post_at", Time),
        sa.Column("posts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("ended_at", Time),
        sa.CheckConstraint("state in ('pending', 'done', 'lapsed')", name="recharge_run_state"),
        sqlite_autoincrement=True,
    )
    op.create_index("recharge_runs_by_month", "recharge_runs", ["account_id", "month"])
    is_pending = sa.text("state = 'pending'")
    op.create_index(
        "one_recharge_pending", "recharge_runs", ["account_id"], unique=True,
        sqlite_where=is_pending, postgresql_where=is_pending,
    )  # fmt: skip
