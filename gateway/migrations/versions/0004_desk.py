"""What a person types for an upstream worked by hand: tasks, and the messages of each."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Time = sa.Double


def upgrade() -> None:
    op.create_table(
        "desk_tasks",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("country", sa.Integer, nullable=False),
        sa.Column("operator", sa.Text, nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("number_sealed", sa.Text),
        sa.Column("number_digest", sa.Text),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("waits_until", Time, nullable=False),
        sa.Column("until_at", Time, nullable=False),
        sa.Column("leased_at", Time),
        sa.Column("ended_at", Time),
        sa.Column("round", sa.Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("desk_tasks_by_place", "desk_tasks", ["upstream", "state", "service", "country"])
    op.create_index("desk_tasks_by_number", "desk_tasks", ["upstream", "number_digest"])
    # A number lies on a desk once at a time.
    is_there = sa.text("state in ('ready', 'leased')")
    op.create_index(
        "desk_tasks_one_number",
        "desk_tasks",
        ["upstream", "number_digest"],
        unique=True,
        sqlite_where=is_there,
        postgresql_where=is_there,
    )
    op.create_table(
        "desk_messages",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        sa.Column("task_id", Id, sa.ForeignKey("desk_tasks.id"), nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("code_sealed", sa.Text, nullable=False),
        sa.Column("text_sealed", sa.Text, nullable=False),
        sa.Column("received_at", Time, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("desk_messages_by_task", "desk_messages", ["task_id"])
