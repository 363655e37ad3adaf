"""Keys whose lists of counts are to look as they did before 2022."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("has_old_counts", sa.Integer, nullable=False, server_default="0"))
