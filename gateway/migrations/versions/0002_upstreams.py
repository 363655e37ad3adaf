"""What is known of upstreams beside their activations: switches, what a server saw, alerts, accepted pushes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Time = sa.Double


def upgrade() -> None:
    op.create_table(
        "upstream_switches",
        sa.Column("upstream", sa.Text, primary_key=True),
        sa.Column("is_drained", sa.Integer, nullable=False),
        sa.Column("changed_at", Time, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
    )
    op.create_table(
        "upstream_reports",
        sa.Column("upstream", sa.Text, primary_key=True),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("reported_at", Time, nullable=False),
    )
    op.create_table(
        "alerts",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("sentence", sa.Text, nullable=False),
        sa.Column("since", Time, nullable=False),
    )
    op.create_table(
        "pushes",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("body_digest", sa.Text, nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
        sa.Column("leases", sa.Integer, nullable=False),
        sa.Column("processed_at", Time, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("pushes_by_time", "pushes", ["processed_at"])
    op.create_index("activations_by_upstream", "activations", ["upstream", "opened_at"])
    op.execute("insert into revisions (name, value) values ('upstreams', 0)")
