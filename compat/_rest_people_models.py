"""What people send and get: sessions, users, the operator's view of accounts. As `_rest_models`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, StrictStr

from compat._rest_models import LINE, Amount, Model, moment
from gateway.money import plain
from gateway.passwords import BYTES_MAX, LENGTH_MIN
from gateway.sessions import Opened
from gateway.users import EMAIL_LENGTH_MAX

USER_ID = r"^[1-9][0-9]{0,18}$"
ACCOUNT_LENGTH_MAX = 63
ACCOUNT_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}$"

RoleWord = Literal["operator", "reseller"]
Email = Annotated[
    StrictStr, Field(min_length=3, max_length=EMAIL_LENGTH_MAX, pattern=LINE, examples=["ann@example.com"])
]
Password = Annotated[SecretStr, Field(min_length=1, max_length=BYTES_MAX)]
NewPassword = Annotated[
    SecretStr,
    Field(
        min_length=LENGTH_MIN,
        max_length=BYTES_MAX,
        description=f"At least {LENGTH_MIN} characters, at most {BYTES_MAX} bytes in UTF-8.",
    ),
]


# Requests


class SignIn(Model):
    """Who one is, and the proof."""

    email: Email
    password: Password


class PasswordChange(Model):
    """The password as it is and as it shall be."""

    current_password: Password
    new_password: NewPassword


class NewUser(Model):
    """Somebody who shall be able to sign in."""

    email: Email
    password: NewPassword
    role: RoleWord
    account: Annotated[StrictStr, Field(min_length=1, max_length=ACCOUNT_LENGTH_MAX, pattern=LINE)] | None = Field(
        default=None, description="Name of the account that a reseller acts for; an operator has none."
    )


# Answers


class Session(Model):
    """A session that has just begun. The token is shown this once."""

    token: str = Field(description="Sent as `Authorization: Bearer TOKEN`.")
    expires_at: datetime
    role: RoleWord
    account: str | None = Field(description="The account a reseller acts for.")


class Me(Model):
    """Whom the key or the session of the request belongs to."""

    email: str | None = Field(description="Null with a key.")
    role: RoleWord | None = Field(description="Null with a key.")
    account: str | None = Field(description="The account that is acted for; null for an operator.")
    currency: str | None = Field(description="That account's.")
    session_expires_at: datetime | None = Field(description="Null with a key.")


class User(Model):
    """Somebody who can sign in."""

    id: int = Field(examples=[7])
    email: str = Field(examples=["ann@example.com"])
    role: RoleWord
    account: str | None
    created_at: datetime
    disabled_at: datetime | None = Field(description="Since when the person is kept out.")


class Users(Model):
    """Everybody, by e-mail."""

    users: list[User]


class Account(Model):
    """An account as those above it, and it itself, see it."""

    name: str = Field(examples=["alice"])
    parent: str | None = Field(description="The account above; null at the top, and for one's own.")
    balance: Amount = Field(description="What can be spent: what is held is not in it.")
    held: Amount = Field(description="Held for numbers that have no message yet.")
    open_activations: int
    keys: int = Field(description="API keys that work.")
    is_demo: bool = Field(description="Served by the sandbox only.")
    barred_until: datetime | None = Field(description="Until when it may not buy.")
    suspended_at: datetime | None = Field(description="Since when it, and all below it, may not buy.")
    created_at: datetime


class Accounts(Model):
    """One page, by name."""

    accounts: list[Account]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


# From ours to theirs


def session(opened: Opened) -> Session:
    return Session(
        token=opened.token,
        expires_at=moment(opened.expires_at),
        role=opened.person.role.value,
        account=opened.person.account_name or None,
    )


def user(row: Mapping[str, Any]) -> User:
    return User(
        id=row["id"],
        email=row["email"],
        role=row["role"],
        account=row["account"],
        created_at=moment(row["created_at"]),
        disabled_at=moment(row["disabled_at"]) if row["disabled_at"] is not None else None,
    )


def account(row: Mapping[str, Any], own_id: int | None = None) -> Account:
    """An account. Who is above `own_id`, that of whoever asks, is not told."""
    currency = row["currency"]
    return Account(
        name=row["name"],
        parent=row["parent"] if row["id"] != own_id else None,
        balance=Amount(amount=plain(row["available"]), currency=currency),
        held=Amount(amount=plain(row["held"]), currency=currency),
        open_activations=row["open_count"],
        keys=row["keys"],
        is_demo=bool(row["is_demo"]),
        barred_until=moment(row["barred_until"]) if row["barred_until"] is not None else None,
        suspended_at=moment(row["suspended_at"]) if row["suspended_at"] is not None else None,
        created_at=moment(row["created_at"]),
    )
