"""People who sign in: operators and resellers, the sessions they have ended, and attempts that failed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Time = sa.Double


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        sa.Column("email", sa.Text, nullable=False, unique=True),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("account_id", Id, sa.ForeignKey("accounts.id")),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("disabled_at", Time),
        # Grows when all sessions end at once: a token carries the value it was made under.
        sa.Column("session_epoch", sa.Integer, nullable=False, server_default="0"),
        sa.Column("seen_from", sa.Text),
        sa.CheckConstraint("(role = 'reseller') = (account_id is not null)", name="resellers_have_an_account"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "ended_sessions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("user_id", Id, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("expires_at", Time, nullable=False),
    )
    op.create_index("ended_sessions_by_user", "ended_sessions", ["user_id"])
    op.create_index("ended_sessions_by_end", "ended_sessions", ["expires_at"])
    # By digest of an e-mail or an address, not in `users`: e-mails nobody has are slowed down alike.
    op.create_table(
        "sign_in_attempts",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("failed_count", sa.Integer, nullable=False),
        sa.Column("locked_until", Time, nullable=False),
        sa.Column("last_at", Time, nullable=False),
    )
    op.create_index("sign_in_attempts_by_time", "sign_in_attempts", ["last_at"])
    op.execute("insert into revisions (name, value) values ('users', 0)")
