"""Which process an order's client waits at, and what it was told when nothing came of it: for repeats elsewhere."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    # Empty where an older program wrote the row: then nobody can be asked whether the client is still there.
    op.add_column("activations", sa.Column("served_by", sa.Text, nullable=False, server_default=""))
    op.add_column("activations", sa.Column("failure", sa.Text))
    untold = sa.text("answered = 0 and status <> 'failed'")
    op.create_index("activations_untold", "activations", ["fingerprint"], sqlite_where=untold, postgresql_where=untold)
