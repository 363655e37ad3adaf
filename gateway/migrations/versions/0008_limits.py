"""A key's own limits, null for the deployment's; and the form an account's notices are sent in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("changes_per_minute", sa.BigInteger))
    op.add_column("api_keys", sa.Column("polls_per_minute", sa.BigInteger))
    op.add_column("accounts", sa.Column("webhook_format", sa.Text))
