"""Which account has accepted which terms, when, and by whose word: rows that are never edited. Units of work."""

from __future__ import annotations

from gateway.accounts import AccountError
from gateway.store import Row, Tx


class NotAccepted(AccountError):
    """The terms in force have not been accepted."""


class NotInForce(AccountError):
    """Other terms than those in force, or there are none."""


def accept(tx: Tx, account_id: int, version: str, current: str, at: float, actor: str) -> bool:
    """Writes down that an account accepts the terms in force; whether it had not before. Raises NotInForce."""
    if not current or version != current:
        raise NotInForce(f"the terms in force are {current!r}" if current else "no terms are in force")
    written = tx.execute(
        "insert into accepted_terms (account_id, version, at, actor) values (:account, :version, :at, :actor)"
        " on conflict (account_id, version) do nothing",
        account=account_id,
        version=version,
        at=at,
        actor=actor,
    )
    return bool(written)


def accepted(tx: Tx, account_id: int, version: str) -> Row | None:
    """When an account accepted those terms (`at`) and by whom (`actor`); None where it did not."""
    return tx.one(
        "select at, actor from accepted_terms where account_id = :account and version = :version",
        account=account_id,
        version=version,
    )


def require_accepted(tx: Tx, account_id: int, name: str, current: str) -> None:
    """Raises NotAccepted where terms are in force that the account has not accepted."""
    if current and accepted(tx, account_id, current) is None:
        raise NotAccepted(f"{name} has not accepted the terms {current}")
