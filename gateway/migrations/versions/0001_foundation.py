"""The foundation: accounts, keys, balances, activations with their attempts and messages, holds, ledger, notices.

Times are seconds since the epoch, amounts micro-units. What is sealed is encrypted under `DATA_ENCRYPTION_KEYS`, what
is a digest was made under `INDEX_KEY` (identities, fingerprints) or `API_KEY_SALT` (keys).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

FIRST_ACTIVATION = 100_000_000
"""Ids look like the nine digits clients know, and stay below 2**31, which old clients need."""

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Micros = sa.BigInteger
Time = sa.Double


def _id() -> sa.Column[int]:
    return sa.Column("id", Id, sa.Identity(), primary_key=True)


def _account(*, primary_key: bool = False) -> sa.Column[int]:
    return sa.Column("account_id", Id, sa.ForeignKey("accounts.id"), nullable=False, primary_key=primary_key)


def _activation(*, primary_key: bool = False) -> sa.Column[int]:
    return sa.Column("activation_id", Id, sa.ForeignKey("activations.id"), nullable=False, primary_key=primary_key)


def upgrade() -> None:
    _people()
    _activations()
    _money()
    _messages()
    op.create_table(
        "revisions",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.execute("insert into revisions (name, value) values ('accounts', 0)")
    _start_ids_at(FIRST_ACTIVATION)


def _people() -> None:
    op.create_table(
        "accounts",
        _id(),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("parent_id", Id, sa.ForeignKey("accounts.id")),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("is_demo", sa.Integer, nullable=False),
        sa.Column("barred_until", Time),
        sa.Column("webhook_url_sealed", sa.Text),
        sa.Column("created_at", Time, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "api_keys",
        _id(),
        _account(),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("revoked_at", Time),
        sqlite_autoincrement=True,
    )


def _activations() -> None:
    op.create_table(
        "activations",
        _id(),
        _account(),
        sa.Column("key_id", Id, sa.ForeignKey("api_keys.id"), nullable=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("country", sa.Integer, nullable=False),
        sa.Column("operator", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("price", Micros, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("upstream", sa.Text),
        sa.Column("reference", sa.Text),
        sa.Column("number_sealed", sa.Text),
        sa.Column("cost", Micros),
        sa.Column("cost_currency", sa.Text),
        sa.Column("round", sa.Integer, nullable=False, server_default="1"),
        sa.Column("opened_at", Time, nullable=False),
        sa.Column("expires_at", Time),
        sa.Column("ended_at", Time),
        sa.Column("answered", sa.Integer, nullable=False, server_default="0"),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("order_reference", sa.Text),
        sa.Column("config_version", sa.Text, nullable=False),
        sa.Column("close_outcome", sa.Text),
        sa.Column("close_at", Time),
        sa.Column("close_tries", sa.Integer, nullable=False, server_default="0"),
        sa.CheckConstraint("id < 2147483648", name="id_fits_31_bits"),
        sa.UniqueConstraint("upstream", "reference", name="one_lease_once"),
        sa.UniqueConstraint("account_id", "order_reference", name="one_order_reference_once"),
        sqlite_autoincrement=True,
    )
    _partial("activations_open", "activations", "account_id", "ended_at is null")
    _partial("activations_closing", "activations", "close_at", "close_outcome is not null")
    op.create_index("activations_by_account", "activations", ["account_id", "id"])
    op.create_table(
        "attempts",
        _id(),
        _activation(),
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("country", sa.Integer, nullable=False),
        sa.Column("cost_max", Micros, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("reference", sa.Text),
        sa.Column("started_at", Time, nullable=False),
        sa.Column("ended_at", Time),
        sqlite_autoincrement=True,
    )
    op.create_index("attempts_by_activation", "attempts", ["activation_id"])
    _partial("attempts_unsettled", "attempts", "upstream", "state in ('pending', 'in_doubt')")
    _partial("attempts_by_reference", "attempts", "reference", "reference is not null")


def _money() -> None:
    op.create_table(
        "balances",
        _account(primary_key=True),
        sa.Column("available", Micros, sa.CheckConstraint("available >= 0"), nullable=False),
        sa.Column("held", Micros, sa.CheckConstraint("held >= 0"), nullable=False),
        sa.Column("open_count", sa.Integer, sa.CheckConstraint("open_count >= 0"), nullable=False),
    )
    op.create_table(
        "holds",
        _activation(primary_key=True),
        _account(),
        sa.Column("amount", Micros, sa.CheckConstraint("amount >= 0"), nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("opened_at", Time, nullable=False),
        sa.Column("closed_at", Time),
    )
    _partial("holds_open", "holds", "account_id", "state = 'open'")
    op.create_table(
        "ledger",
        _id(),
        sa.Column("at", Time, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("debit", sa.Text, nullable=False),
        sa.Column("credit", sa.Text, nullable=False),
        sa.Column("amount", Micros, sa.CheckConstraint("amount > 0"), nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("activation_id", Id, sa.ForeignKey("activations.id")),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False, server_default=""),
        sa.CheckConstraint("debit <> credit", name="two_sides"),
        sqlite_autoincrement=True,
    )
    _partial("ledger_by_activation", "ledger", "activation_id", "activation_id is not null")


def _messages() -> None:
    op.create_table(
        "messages",
        _id(),
        _activation(),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("code_sealed", sa.Text, nullable=False),
        sa.Column("text_sealed", sa.Text, nullable=False),
        sa.Column("received_at", Time, nullable=False),
        sa.Column("is_shown", sa.Integer, nullable=False),
        sa.UniqueConstraint("activation_id", "identity", name="one_message_once"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "notices",
        _id(),
        _account(),
        _activation(),
        sa.Column("message_id", Id, sa.ForeignKey("messages.id"), nullable=False, unique=True),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_at", Time, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("ended_at", Time),
        sa.Column("last_result", sa.Text, nullable=False, server_default=""),
        sa.Column("body_digest", sa.Text, nullable=False, server_default=""),
        sqlite_autoincrement=True,
    )
    _partial("notices_due", "notices", "next_at", "state = 'pending'")


def _partial(name: str, table: str, column: str, where: str) -> None:
    op.create_index(name, table, [column], sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _start_ids_at(first: int) -> None:
    if op.get_bind().dialect.name == "sqlite":
        sequence = sa.table("sqlite_sequence", sa.column("name", sa.Text), sa.column("seq", sa.Integer))
        op.execute(sequence.insert().values(name="activations", seq=first))
    else:
        op.execute(f"alter table activations alter column id restart with {first + 1}")
