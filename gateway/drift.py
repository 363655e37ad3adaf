"""What we think we spent at an upstream against what its own balance says, a day at a time. Units of work.

Between two balances the upstream told us, its balance should have fallen by what the ledger booked there, and by what
the numbers hold there that were open at the end less those open at the beginning; it should have risen by what we
topped up. What is left over is drift: above zero the upstream took more than we know of.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from gateway.money import Money
from gateway.store import Row, Tx

DAY_SECONDS = 86_400.0
KEPT_AT_LEAST_SECONDS = 3_600.0
"""A balance that did not change is noted again after this long."""

SLACK_SECONDS = 1_200.0
"""So much later, at most, than it is due a balance is noted while an upstream answers."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One upstream on one day (UTC), between the balances at `since` and `until`. Amounts in micro-units."""

    upstream: str
    day: str
    currency: str
    since: float
    until: float
    fell_by: int
    topped_up: int
    booked: int
    open_change: int

    @property
    def drift(self) -> int:
        """What the upstream took beyond what is booked or open there."""
        return self.fell_by + self.topped_up - self.booked - self.open_change


def note_balance(tx: Tx, upstream: str, balance: Money, at: float) -> bool:
    """Writes down what the upstream says we have there, if it is news; whether it was."""
    last = _balance(tx, upstream, at)
    is_known = last is not None and last["amount"] == balance.micros and last["currency"] == balance.currency
    if last is not None and is_known and at - last["at"] < KEPT_AT_LEAST_SECONDS:
        return False
    tx.execute(
        "insert into upstream_balances (upstream, at, amount, currency) values (:upstream, :at, :amount, :currency)",
        upstream=upstream,
        at=at,
        amount=balance.micros,
        currency=balance.currency,
    )
    return True


def days(tx: Tx, first_day: float, until: float) -> list[Drift]:
    """A row for each upstream and day from `first_day` (any moment of it) on, where two balances are known."""
    names = [row["upstream"] for row in tx.all("select distinct upstream from upstream_balances order by upstream")]
    start = first_day - first_day % DAY_SECONDS
    found = []
    while start < until:
        found += [row for name in names if (row := _day(tx, name, start)) is not None]
        start += DAY_SECONDS
    return found


def said_of(tx: Tx, upstream: str, asked_at: float, cost: Money, now: float) -> str:
    """What the upstream's balances say of a purchase whose reply was lost, in words for people.

    They tell sums, not purchases: of two that were lost in the same time the words are about both.
    """
    first, last = _balance(tx, upstream, asked_at), _balance(tx, upstream, now)
    if first is None or last is None or now - last["at"] > KEPT_AT_LEAST_SECONDS + SLACK_SECONDS:
        return "no balance tells"
    if last["at"] <= asked_at:
        return "its balance has not changed: nothing was taken"
    found = _between(tx, upstream, asked_at, first, last)
    if found is None or found.currency != cost.currency:
        return "no balance tells"
    if found.drift * 2 >= cost.micros > 0:
        return f"its balance fell by {Money(found.drift, found.currency)} more than is booked: perhaps taken"
    return "its balance fell by no more than is booked: nothing was taken"


def _day(tx: Tx, upstream: str, start: float) -> Drift | None:
    """From the last balance before the day (else its first) to its last."""
    end = start + DAY_SECONDS
    first = _balance(tx, upstream, start) or _first_balance(tx, upstream, start, end)
    last = _balance(tx, upstream, end)
    if first is None or last is None or last["at"] < start or last["at"] <= first["at"]:
        return None
    return _between(tx, upstream, start, first, last)


def _between(tx: Tx, upstream: str, start: float, first: Row, last: Row) -> Drift | None:
    """Between two balances; None where they are in different currencies."""
    currency = last["currency"]
    if first["currency"] != currency:
        return None
    since, until = first["at"], last["at"]
    return Drift(
        upstream=upstream,
        day=time.strftime("%Y-%m-%d", time.gmtime(start)),
        currency=currency,
        since=since,
        until=until,
        fell_by=first["amount"] - last["amount"],
        topped_up=_booked(tx, f"upstream:{upstream}:float", "credit", currency, since, until),
        booked=_booked(tx, f"upstream:{upstream}:float", "debit", currency, since, until),
        open_change=_open(tx, upstream, currency, until) - _open(tx, upstream, currency, since),
    )


def _balance(tx: Tx, upstream: str, before: float) -> Row | None:
    return tx.one(
        "select at, amount, currency from upstream_balances where upstream = :upstream and at <= :before"
        " order by at desc, id desc limit 1",
        upstream=upstream,
        before=before,
    )


def _first_balance(tx: Tx, upstream: str, start: float, end: float) -> Row | None:
    return tx.one(
        "select at, amount, currency from upstream_balances where upstream = :upstream and at >= :start and at < :end"
        " order by at, id limit 1",
        upstream=upstream,
        start=start,
        end=end,
    )


def _booked(tx: Tx, purse: str, side: str, currency: str, since: float, until: float) -> int:
    row = tx.one(
        f"select coalesce(sum(amount), 0) as total from ledger where {side} = :purse and currency = :currency"  # noqa: S608 — one of two words
        " and at > :since and at <= :until",
        purse=purse,
        currency=currency,
        since=since,
        until=until,
    )
    return int(row["total"]) if row else 0


def _open(tx: Tx, upstream: str, currency: str, at: float) -> int:
    """What numbers cost that were open there at a moment and not booked yet: taken there, and perhaps given back."""
    row = tx.one(
        "select coalesce(sum(a.cost), 0) as total from activations a join holds h on h.activation_id = a.id"
        " where a.upstream = :upstream and a.cost_currency = :currency and a.opened_at <= :at"
        " and (h.closed_at is null or h.closed_at > :at)",
        upstream=upstream,
        currency=currency,
        at=at,
    )
    return int(row["total"]) if row else 0
