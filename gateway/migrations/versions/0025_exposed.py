"""What is in doubt or nobody's is found by an index of its own: every process looks at it every few seconds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"

IS_EXPOSED = sa.text("state in ('in_doubt', 'orphan')")


def upgrade() -> None:
    op.create_index(
        "attempts_exposed",
        "attempts",
        ["state", "upstream", "id"],
        sqlite_where=IS_EXPOSED,
        postgresql_where=IS_EXPOSED,
        if_not_exists=True,
    )
