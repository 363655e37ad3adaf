"""What was known to single processes only: leases that go on under another reference, which cancels were meant as a
ban, and how often a rental had been extended before an extension whose answer was lost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Time = sa.Double


def upgrade() -> None:
    # Until when some process is asking for another SMS that may come under another reference. Once that is over it is
    # not known what came of it.
    op.add_column("activations", sa.Column("resend_until", Time))
    op.add_column("activations", sa.Column("is_banned", sa.Integer, nullable=False, server_default="0"))
    is_asked = sa.text("resend_until is not null")
    op.create_index("activations_resend", "activations", ["upstream"], sqlite_where=is_asked, postgresql_where=is_asked)
    op.add_column("attempts", sa.Column("made_before", sa.Integer))
    # References of an activation's lease beside the one it has now.
    op.create_table(
        "lease_references",
        sa.Column("upstream", sa.Text, primary_key=True),
        sa.Column("reference", sa.Text, primary_key=True),
        sa.Column("activation_id", Id, sa.ForeignKey("activations.id"), nullable=False),
    )
    op.create_index("lease_references_by_activation", "lease_references", ["activation_id"])
