"""Several processes on one database: who does what, which activations changed, which wait for whoever asks again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

Time = sa.Double


def upgrade() -> None:
    op.add_column("activations", sa.Column("claim_until", Time))
    # Until when a rental is being given back by some process: it is neither kept nor prolonged meanwhile.
    op.add_column("activations", sa.Column("cancelling_until", Time))
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("until", Time, nullable=False),
    )
    if op.get_bind().dialect.name != "postgresql":
        return  # SQLite has one process that serves, which need not be told of its own changes
    op.execute("alter table activations add column changed xid8 not null default '0'")
    op.execute("create index activations_by_changed on activations (changed)")
    # By the database itself, so that no statement can forget it, an older program's neither.
    op.execute(
        "create function note_changed() returns trigger language plpgsql as"
        " $$ begin new.changed := pg_current_xact_id(); return new; end $$"
    )
    op.execute(
        "create trigger note_changed before insert or update on activations"
        " for each row execute function note_changed()"
    )
