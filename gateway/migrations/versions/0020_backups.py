"""Scheduled backups: who takes the next one, and when the last good one was; dead notices found by time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"

Time = sa.Double


def upgrade() -> None:
    op.create_table(
        "backup_state",
        sa.Column("name", sa.Text, primary_key=True),
        # When backups began to be looked after: one that was never taken is late from then on.
        sa.Column("since", Time, nullable=False),
        sa.Column("claimed_until", Time, nullable=False, server_default="0"),
        sa.Column("good_at", Time, nullable=False, server_default="0"),
        sa.Column("file", sa.Text, nullable=False, server_default=""),
        sa.Column("problem", sa.Text, nullable=False, server_default=""),
    )
    is_dead = sa.text("state = 'dead'")
    op.create_index("notices_dead_by_time", "notices", ["ended_at"], sqlite_where=is_dead, postgresql_where=is_dead)
