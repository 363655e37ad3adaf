"""Counters that tell every running server that something others share has changed."""

from __future__ import annotations

from gateway.store import Tx

ACCOUNTS = "accounts"
"""Accounts, keys, and all that a caller is known by."""


def bump(tx: Tx, name: str) -> None:
    """What goes by that name has changed."""
    tx.execute("update revisions set value = value + 1 where name = :name", name=name)


def value(tx: Tx, name: str) -> int:
    """Differs from what it was whenever something has changed since."""
    row = tx.one("select value from revisions where name = :name", name=name)
    return int(row["value"]) if row else 0
