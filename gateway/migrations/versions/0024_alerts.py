"""When a host's process last said that its trouble stands: what nobody renews any more is over, or its host is gone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    op.add_column("alerts", sa.Column("seen_at", sa.Double, nullable=False, server_default="0"))
    op.execute("delete from alerts where subject in ('host:disk', 'host:database', 'host:process')")  # no host's name
