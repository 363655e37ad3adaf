"""The dialect a key is answered in, null for the deployment's own; and indexes for what callers page through."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("dialect", sa.Text))
    paid_in = sa.text("kind = 'deposit'")
    op.create_index("ledger_deposits", "ledger", ["credit"], sqlite_where=paid_in, postgresql_where=paid_in)
    op.create_index("activations_by_time", "activations", ["account_id", "opened_at", "id"])
