"""Rentals and their extensions beside activations, the senders of messages, and notices in more than one format."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "x_rentals"
down_revision = "0005"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Time = sa.Double
IS_PENDING = sa.text("state = 'pending'")
HAS_PARENT = sa.text("parent_id is not null")


def upgrade() -> None:
    op.add_column("activations", sa.Column("product", sa.Text, nullable=False, server_default="sms"))
    op.add_column("activations", sa.Column("hours", sa.Integer))
    op.add_column("activations", sa.Column("parent_id", Id))
    # Until when the money of a rental can be had back; nought once it is kept.
    op.add_column("activations", sa.Column("refundable_until", Time))
    op.add_column("activations", sa.Column("webhook_url_sealed", sa.Text))
    op.create_index(
        "activations_by_parent", "activations", ["parent_id"], sqlite_where=HAS_PARENT, postgresql_where=HAS_PARENT
    )
    op.add_column("attempts", sa.Column("product", sa.Text, nullable=False, server_default="sms"))
    op.add_column("messages", sa.Column("sender_sealed", sa.Text))
    op.add_column("number_leases", sa.Column("is_rental", sa.Integer, nullable=False, server_default="0"))
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_notices()
    else:
        op.drop_constraint("notices_message_id_key", "notices")
        op.create_unique_constraint("one_notice_once", "notices", ["message_id", "format"])


def _rebuild_notices() -> None:
    """SQLite can't drop a constraint, so the table is made anew, with one notice per message and format."""
    columns = (
        "id, account_id, activation_id, message_id, format, state, tries, next_at, created_at, ended_at, last_result,"
        " body_digest"
    )
    op.drop_index("notices_due", "notices")
    op.rename_table("notices", "notices_before")
    op.create_table(
        "notices",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        sa.Column("account_id", Id, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("activation_id", Id, sa.ForeignKey("activations.id"), nullable=False),
        sa.Column("message_id", Id, sa.ForeignKey("messages.id"), nullable=False),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_at", Time, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("ended_at", Time),
        sa.Column("last_result", sa.Text, nullable=False, server_default=""),
        sa.Column("body_digest", sa.Text, nullable=False, server_default=""),
        sa.UniqueConstraint("message_id", "format", name="one_notice_once"),
        sqlite_autoincrement=True,
    )
    op.execute(f"insert into notices ({columns}) select {columns} from notices_before order by id")  # noqa: S608 — constant columns
    op.drop_table("notices_before")
    op.create_index("notices_due", "notices", ["next_at"], sqlite_where=IS_PENDING, postgresql_where=IS_PENDING)
