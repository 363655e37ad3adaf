"""How long numbers and messages are kept, and under which keys they are sealed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Time = sa.Double


def upgrade() -> None:
    op.create_table(
        "retention_terms",
        sa.Column("account_id", Id, sa.ForeignKey("accounts.id"), primary_key=True),
        sa.Column("days", sa.Integer, sa.CheckConstraint("days > 0"), nullable=False),
        sa.Column("changed_at", Time, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
    )
    # What still has something to delete; a row leaves these when it has been deleted.
    _partial("activations_kept", "activations", ["ended_at"], "number_sealed is not null")
    _partial("activations_kept_by_account", "activations", ["account_id", "ended_at"], "number_sealed is not null")
    _partial("messages_kept", "messages", ["received_at"], "text_sealed <> ''")
    op.create_index("number_messages_by_age", "number_messages", ["recorded_at"])
    op.create_table(
        "sealing_keys",
        sa.Column("fingerprint", sa.Text, primary_key=True),
        sa.Column("since", Time, nullable=False),
        # When a process that seals under it was last seen.
        sa.Column("used_at", Time, nullable=False),
    )
    op.create_table(
        "resealings",
        sa.Column("place", sa.Text, primary_key=True),
        # The key everything in this place shall be sealed under, and how far that has come.
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("after_id", sa.BigInteger, nullable=False),
        sa.Column("unreadable", sa.BigInteger, nullable=False),
        sa.Column("started_at", Time, nullable=False),
        sa.Column("ended_at", Time),
    )


def _partial(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
