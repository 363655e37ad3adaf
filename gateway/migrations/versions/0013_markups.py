"""What accounts add to the prices of those below them, and how the money of each hold is split."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Micros = sa.BigInteger


def upgrade() -> None:
    op.create_table(
        "markups",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        sa.Column("account_id", Id, sa.ForeignKey("accounts.id"), nullable=False),
        # The first that matches counts.
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("services", sa.Text),
        sa.Column("countries", sa.Text),
        sa.Column("child_id", Id, sa.ForeignKey("accounts.id")),
        sa.Column("percent", sa.BigInteger, sa.CheckConstraint("percent >= 0"), nullable=False),
        sa.Column("amount", Micros, sa.CheckConstraint("amount >= 0"), nullable=False),
        sa.Column("step", Micros, sa.CheckConstraint("step > 0"), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("markups_by_account", "markups", ["account_id", "position"])
    op.create_table(
        "hold_shares",
        sa.Column("activation_id", Id, sa.ForeignKey("activations.id"), primary_key=True),
        sa.Column("account_id", Id, sa.ForeignKey("accounts.id"), primary_key=True),
        # Nought is the root's.
        sa.Column("level", sa.Integer, nullable=False),
        # What this account pays the one above it.
        sa.Column("price", Micros, sa.CheckConstraint("price >= 0"), nullable=False),
    )
