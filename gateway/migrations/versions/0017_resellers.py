"""Requests a minute as rules of accounts, and since when a key is slowed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("rules", sa.Column("polls_per_minute", sa.BigInteger))
    op.add_column("rules", sa.Column("changes_per_minute", sa.BigInteger))
    # Null while it is not slowed. A program that knows nothing of it leaves it as it was: see gateway/fuse.py.
    op.add_column("fuses", sa.Column("slowed_at", sa.Double))
