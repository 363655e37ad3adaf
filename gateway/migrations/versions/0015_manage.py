"""Keys that may manage, terms accepted by resellers, and who has been shown which message."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Time = sa.Double


def upgrade() -> None:
    # A program that knows nothing of it makes keys that only buy.
    op.add_column("api_keys", sa.Column("may_manage", sa.Integer, nullable=False, server_default="0"))
    op.execute(
        "update api_keys set may_manage = 1 where id in ("
        " select min(k.id) from api_keys k where k.hint <> '' group by k.account_id)"
        " and origin_id is null and not exists (select 1 from rules r where r.subject = 'key:' || api_keys.id)"
    )
    op.create_table(
        "accepted_terms",
        sa.Column("account_id", Id, sa.ForeignKey("accounts.id"), primary_key=True),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("at", Time, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
    )
    op.create_table(
        "shown_messages",
        sa.Column("message_id", Id, sa.ForeignKey("messages.id"), primary_key=True),
        sa.Column("actor", sa.Text, primary_key=True),
        sa.Column("at", Time, nullable=False),
    )
    op.create_index("transfers_by_payer", "transfers", ["from_id", "id"])
    op.create_index("transfers_by_payee", "transfers", ["to_id", "id"])
    op.create_index("transfers_by_reference", "transfers", ["reference"])
