"""Pushes are kept by keyed digests, with whom they were for; no plain hash and no digest of what is deleted stays.

A hash of a push's body stood in the row for whoever has the file to guess the code by. What older programs write there
while they go on beside newer ones is blanked as it comes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
IS_PLAIN = sa.text("body_digest <> ''")
DELETED = "select n.id from notices n join messages m on m.id = n.message_id where m.text_sealed = ''"


def upgrade() -> None:
    # First what takes long beside little that is locked: `pushes` is locked to the end.
    op.create_index("webhook_attempts_by_notice", "webhook_attempts", ["notice_id"], if_not_exists=True)
    op.execute(
        f"update webhook_attempts set body_digest = '', signature = '' where notice_id in ({DELETED})"  # noqa: S608 — constant text
    )
    op.execute(f"update notices set body_digest = '' where body_digest <> '' and id in ({DELETED})")  # noqa: S608 — constant text
    # Made under INDEX_KEY, and sealed; `body_digest` and `signature` stay for older programs, empty.
    op.add_column("pushes", sa.Column("digest", sa.Text, nullable=False, server_default=""))
    op.add_column("pushes", sa.Column("signature_sealed", sa.Text, nullable=False, server_default=""))
    # Null where it told of several, or of none that is known.
    op.add_column("pushes", sa.Column("account_id", Id))
    op.add_column("pushes", sa.Column("activation_id", Id))
    op.execute("update pushes set body_digest = '', signature = ''")
    op.create_index("pushes_by_account", "pushes", ["account_id", "processed_at"])
    op.create_index("pushes_by_activation", "pushes", ["activation_id"])
    op.create_index("pushes_plain", "pushes", ["id"], sqlite_where=IS_PLAIN, postgresql_where=IS_PLAIN)
