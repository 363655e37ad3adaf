"""Secrets of an account's webhooks, how its endpoints fare, and a log of attempts.

Whoever had an address before stays on the deployment's secret (version 0) until its owner rotates: receivers that
verify must not break in silence. An account without a row has the first version of its own.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Time = sa.Double
IS_DEAD = sa.text("state = 'dead'")
IS_DISABLED = sa.text("disabled_at is not null")


def upgrade() -> None:
    op.create_table(
        "webhook_secrets",
        sa.Column("account_id", Id, sa.ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("rotated_at", Time),
        # Signs beside the current one until then.
        sa.Column("former_version", sa.Integer),
        sa.Column("former_until", Time),
    )
    op.execute(
        "insert into webhook_secrets (account_id, version) select a.id, 0 from accounts a"
        " where a.webhook_url_sealed is not null or exists"
        " (select 1 from activations v where v.account_id = a.id and v.webhook_url_sealed is not null)"
    )
    op.create_table(
        "webhook_endpoints",
        sa.Column("account_id", Id, sa.ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
        # The rental whose own address it is; 0 for the account's.
        sa.Column("rental_id", Id, primary_key=True, autoincrement=False),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failing_since", Time),
        sa.Column("paused_until", Time),
        sa.Column("disabled_at", Time),
        sa.Column("last_failure", sa.Text, nullable=False, server_default=""),
    )
    op.create_index(
        "webhook_endpoints_disabled",
        "webhook_endpoints",
        ["disabled_at"],
        sqlite_where=IS_DISABLED,
        postgresql_where=IS_DISABLED,
    )
    op.create_table(
        "webhook_attempts",
        sa.Column("id", Id, sa.Identity(), primary_key=True),
        sa.Column("account_id", Id, sa.ForeignKey("accounts.id"), nullable=False),
        # Null for a test.
        sa.Column("notice_id", Id),
        sa.Column("at", Time, nullable=False),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("body_digest", sa.Text, nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("webhook_attempts_by_account", "webhook_attempts", ["account_id", "id"])
    op.create_index("webhook_attempts_by_age", "webhook_attempts", ["at"])
    op.create_index("notices_by_account", "notices", ["account_id", "id"])
    op.create_index("notices_dead", "notices", ["account_id"], sqlite_where=IS_DEAD, postgresql_where=IS_DEAD)
