"""People who sign in: operators, who run the house, and resellers, each of whom acts for one account.

Functions that take a `Tx` are units of work. What a person buys is put down to a key of its own
(`accounts.add_person`), so that every activation can be traced to whoever asked for it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from gateway import accounts, revisions
from gateway.accounts import ID_MAX, AccountError
from gateway.store import Conflict, Row, Tx

REVISION = "users"
"""Grows whenever a session may have ended."""

EMAIL_LENGTH_MAX = 254
ENDED_MAX = 1000
"""Sessions a person has signed out of one by one and that would still be good; one more, and all of them end."""


class Role(StrEnum):
    """What a person may do."""

    OPERATOR = "operator"
    RESELLER = "reseller"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who has signed in. `account_name` is empty for an operator.

    `ended` are the sessions signed out of, by id; a session of another `epoch` has ended as well.
    """

    id: int
    email: str
    role: Role
    account_name: str
    is_disabled: bool
    epoch: int
    ended: frozenset[str] = frozenset()


class EmailTaken(AccountError):
    """Somebody has that e-mail address already."""


class LastOperator(AccountError):
    """Without this person nobody could operate the house."""


class UnknownUser(AccountError):
    """There is nobody of that id or e-mail address."""


def folded(email: str) -> str:
    """An e-mail address as it is kept: one spelling for all cases. Raises AccountError on what is none."""
    found = unicodedata.normalize("NFKC", email).strip().casefold()
    name, at, domain = found.rpartition("@")
    is_plain = all(character.isprintable() and not character.isspace() for character in found)
    if not (name and at and domain and is_plain) or "@" in name or len(found) > EMAIL_LENGTH_MAX:
        raise AccountError("that is no e-mail address")
    return found


def add(tx: Tx, email: str, password_hash: str, role: Role, account: str | None, at: float) -> int:
    """A person who can sign in; the id. A reseller needs an account, an operator has none. Raises AccountError."""
    if (role is Role.RESELLER) != bool(account):
        raise AccountError("a reseller acts for an account, an operator for none")
    account_id = accounts.find(tx, account)["id"] if account else None
    try:
        user_id = tx.insert(
            "insert into users (email, password_hash, role, account_id, created_at)"
            " values (:email, :hash, :role, :account, :at) returning id",
            email=folded(email),
            hash=password_hash,
            role=role.value,
            account=account_id,
            at=at,
        )
    except Conflict:
        raise EmailTaken("somebody has that e-mail address already") from None
    if account_id is not None:
        accounts.add_person(tx, user_id, account_id, at)
    return user_id


_SHOWN = (
    "select u.id, u.email, u.role, u.created_at, u.disabled_at, u.session_epoch, u.password_hash, u.seen_from,"
    " a.name as account from users u left join accounts a on a.id = u.account_id"
)


def overview(tx: Tx) -> Sequence[Row]:
    """Everybody, by e-mail."""
    return tx.all(f"{_SHOWN} order by u.email")


def by_id(tx: Tx, user_id: int) -> Row:
    """The row of a person. Raises UnknownUser."""
    return (tx.one(f"{_SHOWN} where u.id = :id", id=user_id) if user_id <= ID_MAX else None) or _nobody(str(user_id))


def by_email(tx: Tx, email: str) -> Row:
    """Likewise. Raises AccountError as well, on what is no e-mail address."""
    return find(tx, folded(email)) or _nobody(email)


def find(tx: Tx, email: str) -> Row | None:
    """The row of whoever has a folded e-mail address, or None."""
    return tx.one(f"{_SHOWN} where u.email = :email", email=email)


def _nobody(who: str) -> NoReturn:
    raise UnknownUser(f"there is no user {who}")


def person(tx: Tx, user_id: int, at: float) -> Person | None:
    """What has to be known of a person to admit a session; None where there is nobody of that id."""
    row = tx.one(f"{_SHOWN} where u.id = :id", id=user_id)
    if row is None:
        return None
    ended = tx.all("select id from ended_sessions where user_id = :user and expires_at > :at", user=user_id, at=at)
    return Person(
        id=row["id"],
        email=row["email"],
        role=Role(row["role"]),
        account_name=row["account"] or "",
        is_disabled=row["disabled_at"] is not None,
        epoch=row["session_epoch"],
        ended=frozenset(one["id"] for one in ended),
    )


def _require_another_operator(tx: Tx, user_id: int) -> None:
    """Raises LastOperator. Takes every operator's lock: two can't keep each other out at once."""
    tx.execute("update users set session_epoch = session_epoch where role = 'operator'")
    another = tx.one(
        "select 1 as x from users where role = 'operator' and disabled_at is null and id <> :id limit 1", id=user_id
    )
    if another is None:
        raise LastOperator("this is the last operator who can sign in")


def switch(tx: Tx, user_id: int, disabled_at: float | None, *, is_forced: bool = False) -> Row:
    """Keeps a person out from then on, ending every session, or (None) lets the person in again; the row.

    Safe to repeat. Raises UnknownUser, and LastOperator unless `is_forced`.
    """
    row = by_id(tx, user_id)
    if disabled_at is not None and not is_forced and row["role"] == Role.OPERATOR and row["disabled_at"] is None:
        _require_another_operator(tx, user_id)
    if disabled_at is None:
        tx.execute("update users set disabled_at = null where id = :id", id=user_id)
        revisions.bump(tx, REVISION)
    else:
        since = "update users set disabled_at = coalesce(disabled_at, :at) where id = :id"
        tx.execute(since, id=user_id, at=disabled_at)
        end_all(tx, user_id)
    return by_id(tx, user_id)


def set_password(tx: Tx, user_id: int, password_hash: str, *, instead_of: str | None = None) -> int | None:
    """Replaces a password and ends every session; the new epoch.

    With `instead_of`, only while that hash is still the person's, and the person is not disabled: else None.
    """
    row = tx.one(
        "update users set password_hash = :hash where id = :id and (:before = '' or password_hash = :before)"
        " and (:before = '' or disabled_at is null) returning id",
        hash=password_hash,
        id=user_id,
        before=instead_of or "",
    )
    return end_all(tx, user_id) if row is not None else None


def rehash(tx: Tx, user_id: int, known: str, password_hash: str) -> None:
    """Keeps the same password under newer parameters, unless it was changed in the meantime."""
    tx.execute(
        "update users set password_hash = :hash where id = :id and password_hash = :known",
        hash=password_hash,
        id=user_id,
        known=known,
    )


def end_session(tx: Tx, user_id: int, session_id: str, expires_at: float, at: float) -> None:
    """Ends one session. Safe to repeat."""
    tx.execute("delete from ended_sessions where expires_at <= :at", at=at)
    count = tx.one("select count(*) as ended from ended_sessions where user_id = :user", user=user_id)
    if count is not None and count["ended"] >= ENDED_MAX:
        end_all(tx, user_id)
        return
    tx.execute(
        "insert into ended_sessions (id, user_id, expires_at) values (:id, :user, :until) on conflict (id) do nothing",
        id=session_id,
        user=user_id,
        until=expires_at,
    )
    revisions.bump(tx, REVISION)


def end_all(tx: Tx, user_id: int) -> int:
    """Ends every session of a person; the epoch that those to come are made under."""
    row = tx.one(
        "update users set session_epoch = session_epoch + 1 where id = :id returning session_epoch", id=user_id
    )
    tx.execute("delete from ended_sessions where user_id = :user", user=user_id)
    revisions.bump(tx, REVISION)
    return int(row["session_epoch"]) if row is not None else 0
