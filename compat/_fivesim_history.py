"""What a 5sim client may page through: the ids of an account's orders, and what was paid into it. Units of work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Row = Mapping[str, Any]


class Rows(Protocol):
    """A transaction, as far as reading needs one."""

    def one(self, sql: str, **values: Any) -> Row | None: ...

    def all(self, sql: str, **values: Any) -> Sequence[Row]: ...


def orders(rows: Rows, account_id: int, offset: int, limit: int, *, newest_first: bool) -> tuple[list[int], int]:
    """One page of the account's orders as ids, and how many there are in all. Orders that got no number are none."""
    total = rows.one(
        "select count(*) as n from activations where account_id = :account and status not in ('opening', 'failed')",
        account=account_id,
    )
    page = rows.all(_NEWEST_FIRST if newest_first else _OLDEST_FIRST, account=account_id, limit=limit, offset=offset)
    return [int(row["id"]) for row in page], int(total["n"]) if total else 0


_OLDEST_FIRST = (
    "select id from activations where account_id = :account and status not in ('opening', 'failed')"
    " order by id limit :limit offset :offset"
)
_NEWEST_FIRST = (
    "select id from activations where account_id = :account and status not in ('opening', 'failed')"
    " order by id desc limit :limit offset :offset"
)


def newest(rows: Rows, account_id: int) -> Row | None:
    """The account's latest order that got a number, as far as a profile tells of it."""
    return rows.one(
        "select id, service, country, operator, price from activations where account_id = :account"
        " and status not in ('opening', 'failed') order by id desc limit 1",
        account=account_id,
    )


def deposits(rows: Rows, purse: str) -> Sequence[Row]:
    """Everything ever paid into a purse, oldest first."""
    return rows.all(
        "select id, at, amount from ledger where kind = 'deposit' and credit = :purse order by id", purse=purse
    )
