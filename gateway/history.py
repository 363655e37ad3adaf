"""An account's activations as it sees them afterwards: units of work that name the account they are for.

Everything is read along the index of an account's activations, newest first: how much others have bought costs nothing.
Rentals and their extensions are lists of their own (`gateway.rentals`), and none of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gateway.model import Status
from gateway.store import Row, Tx
from gateway.vault import Vault

COUNTED_MAX = 10_000
"""Of so many activations, the newest, a customer's own figures are made."""


@dataclass(frozen=True, slots=True)
class Past:
    """One activation in a list. `text` is the newest message's, None where there is none to show."""

    id: int
    status: Status
    service: str
    country: int
    opened_at: float
    price_micros: int
    currency: str
    number: str = field(repr=False)
    text: str | None = field(repr=False)
    message_count: int = 0
    """How many messages there are to show."""

    @property
    def paid_micros(self) -> int:
        """What it cost in the end: nothing, where no message came."""
        return self.price_micros if self.status in _PAID else 0


_PAID = frozenset({Status.RECEIVED, Status.RETRYING, Status.FINISHED})


def page(
    tx: Tx, account_id: int, start: float, end: float, *, limit: int, offset: int, reference: str = ""
) -> Sequence[Row]:
    """Activations opened in a span of time (its end included), newest first; those that got no number are none.

    `reference` narrows it down to the one of that order.
    """
    return tx.all(
        "select id, status, service, country, opened_at, price, currency, number_sealed,"
        " (select m.text_sealed from messages m where m.activation_id = a.id and m.is_shown = 1"
        " order by m.id desc limit 1) as text_sealed,"
        " (select count(*) from messages m where m.activation_id = a.id and m.is_shown = 1) as message_count"
        " from activations a where account_id = :account and status not in ('opening', 'failed')"
        " and product not in ('rental', 'extension')"
        " and opened_at >= :start and opened_at <= :end and (order_reference = :reference or :reference = '')"
        " order by opened_at desc, id desc limit :limit offset :offset",
        account=account_id,
        start=start,
        end=end,
        reference=reference,
        limit=limit,
        offset=offset,
    )


def opened(vault: Vault, rows: Iterable[Row]) -> list[Past]:
    """Rows of `page` with what was sealed."""
    return [
        Past(
            id=row["id"],
            status=Status(row["status"]),
            service=row["service"],
            country=row["country"],
            opened_at=row["opened_at"],
            price_micros=row["price"],
            currency=row["currency"],
            number=vault.open(row["number_sealed"]) if row["number_sealed"] else "",
            text=vault.open(row["text_sealed"]) if row["text_sealed"] else None,
            message_count=row["message_count"],
        )
        for row in rows
    ]


def id_of_order(tx: Tx, account_id: int, reference: str) -> int | None:
    """The activation an account's own order reference was used for."""
    row = tx.one(
        "select id from activations where account_id = :account and order_reference = :reference"
        " and product not in ('rental', 'extension')",
        account=account_id,
        reference=reference,
    )
    return None if row is None else int(row["id"])


def countries_of(tx: Tx, account_id: int, service: str) -> Sequence[Row]:
    """Where an account bought a service of late: `country`, how many were `bought`, how many `received` a message."""
    return tx.all(
        "select country, count(*) as bought,"
        " sum(case when status in ('received', 'retrying', 'finished') then 1 else 0 end) as received"
        " from (select country, service, status from activations"
        " where account_id = :account and status not in ('opening', 'failed')"
        " and product not in ('rental', 'extension') order by id desc limit :most) as newest"
        " where service = :service group by country order by bought desc, country",
        account=account_id,
        service=service,
        most=COUNTED_MAX,
    )


def order_ids(tx: Tx, account_id: int, offset: int, limit: int, *, newest_first: bool) -> tuple[list[int], int]:
    """One page of the account's orders as ids, and how many there are in all. Orders that got no number are none."""
    total = tx.one(
        "select count(*) as n from activations where account_id = :account and status not in ('opening', 'failed')"
        " and product not in ('rental', 'extension')",
        account=account_id,
    )
    page = tx.all(_NEWEST_FIRST if newest_first else _OLDEST_FIRST, account=account_id, limit=limit, offset=offset)
    return [int(row["id"]) for row in page], int(total["n"]) if total else 0


_OLDEST_FIRST = (
    "select id from activations where account_id = :account and status not in ('opening', 'failed')"
    " and product not in ('rental', 'extension') order by id limit :limit offset :offset"
)
_NEWEST_FIRST = (
    "select id from activations where account_id = :account and status not in ('opening', 'failed')"
    " and product not in ('rental', 'extension') order by id desc limit :limit offset :offset"
)


def newest(tx: Tx, account_id: int) -> Row | None:
    """The account's latest order that got a number, as far as a profile tells of it."""
    return tx.one(
        "select id, service, country, operator, price from activations where account_id = :account"
        " and status not in ('opening', 'failed') and product not in ('rental', 'extension')"
        " order by id desc limit 1",
        account=account_id,
    )


def deposits(tx: Tx, purse: str) -> Sequence[Row]:
    """Everything ever paid into a purse, oldest first."""
    return tx.all(
        "select id, at, amount from ledger where kind = 'deposit' and credit = :purse order by id", purse=purse
    )


def with_number(tx: Tx, vault: Vault, account_id: int, service: str, number: str) -> Past | None:
    """The account's latest activation of a service on that number, among its newest `COUNTED_MAX`.

    Numbers are sealed, so they are opened one after the other; only those of the service are.
    """
    rows = tx.all(
        "select id, status, service, country, opened_at, price, currency, number_sealed, null as text_sealed,"
        " 0 as message_count"
        " from (select * from activations where account_id = :account and status not in ('opening', 'failed')"
        " and product not in ('rental', 'extension') order by id desc limit :most) as newest"
        " where service = :service and number_sealed is not null order by id desc",
        account=account_id,
        service=service,
        most=COUNTED_MAX,
    )
    return next((past for row in rows for past in opened(vault, (row,)) if past.number == number), None)
