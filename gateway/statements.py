"""An account's own view of the ledger: what moved, when, why, and what was left. Units of work that only read."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway import ledger
from gateway.money import plain
from gateway.store import Row, Tx

COLUMNS = ("id", "at", "kind", "amount", "held", "available", "total_held", "currency", "activation", "actor", "note")


@dataclass(frozen=True, slots=True)
class Movement:
    """One ledger row as its account sees it; amounts in micro-units, signed.

    `amount` is what it did to what can be spent, `held` to what is reserved; `available` and `total_held` are both
    after it.
    """

    id: int
    at: float
    kind: str
    amount: int
    held: int
    available: int
    total_held: int
    currency: str
    activation_id: int | None
    actor: str
    note: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A page of movements, oldest first, with the balances before it. `next_after` is None on the last page."""

    currency: str
    opening_available: int
    opening_held: int
    movements: tuple[Movement, ...]
    next_after: int | None


def statement(tx: Tx, account_id: int, start: float, end: float, *, after: int = 0, limit: int = 1000) -> Statement:
    """Movements from `start` (included) to `end` (not), with ids above `after`. KeyError on an unknown account.

    The opening balance is today's less everything since, so a statement costs what its period and the time after it
    hold, not what the account ever did.
    """
    balance = ledger.balance(tx, account_id)
    available, held = ledger.available(account_id), ledger.held(account_id)
    since = {"available": available, "held": held, "start": start, "after": after}
    available_moved, held_moved = _moved(tx, since)
    opening_available = balance.available.micros - available_moved
    opening_held = balance.held.micros - held_moved
    rows = tx.all(_ROWS, **since, end=end, most=limit + 1)
    page = rows[:limit]
    movements = tuple(_movements(page, available, held, opening_available, opening_held))
    next_after = page[-1]["id"] if len(rows) > limit else None
    return Statement(balance.available.currency, opening_available, opening_held, movements, next_after)


_ROWS = (
    "select id, at, kind, debit, credit, amount, currency, activation_id, actor, note from ("
    " select * from ledger where debit in (:available, :held) union"
    " select * from ledger where credit in (:available, :held)) as own"
    " where id > :after and at >= :start and at < :end order by id limit :most"
)


def _moved(tx: Tx, since: Mapping[str, object]) -> tuple[int, int]:
    """What moved on both sides of the account since then."""
    found = []
    for purse in (since["available"], since["held"]):
        row = tx.one(
            "select"
            " (select coalesce(sum(amount), 0) from ledger where credit = :purse and id > :after and at >= :start) -"
            " (select coalesce(sum(amount), 0) from ledger where debit = :purse and id > :after and at >= :start)"
            " as moved",
            purse=purse,
            start=since["start"],
            after=since["after"],
        )
        found.append(int(row["moved"]) if row else 0)
    return found[0], found[1]


def _movements(
    rows: Sequence[Row], available: str, held: str, available_before: int, held_before: int
) -> Iterator[Movement]:
    can_spend, reserved = available_before, held_before
    for row in rows:
        amount = _signed(row, available)
        on_hold = _signed(row, held)
        can_spend, reserved = can_spend + amount, reserved + on_hold
        yield Movement(
            id=row["id"],
            at=row["at"],
            kind=row["kind"],
            amount=amount,
            held=on_hold,
            available=can_spend,
            total_held=reserved,
            currency=row["currency"],
            activation_id=row["activation_id"],
            actor=row["actor"],
            note=row["note"],
        )


def _signed(row: Row, purse: str) -> int:
    micros = int(row["amount"])
    return micros * (int(row["credit"] == purse) - int(row["debit"] == purse))


def as_fields(movement: Movement) -> dict[str, str | int | None]:
    """Plain values in the order of COLUMNS, amounts as decimals, times as UTC."""
    return {
        "id": movement.id,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(movement.at)),
        "kind": movement.kind,
        "amount": plain(movement.amount),
        "held": plain(movement.held),
        "available": plain(movement.available),
        "total_held": plain(movement.total_held),
        "currency": movement.currency,
        "activation": movement.activation_id,
        "actor": movement.actor,
        "note": movement.note,
    }


def as_csv(movements: Sequence[Movement], *, has_heading: bool = True) -> str:
    """With a heading, unless told; a text that a spreadsheet would take for a formula is made harmless."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\r\n")
    if has_heading:
        writer.writeheader()
    for movement in movements:
        writer.writerow({name: _harmless(name, value) for name, value in as_fields(movement).items()})
    return out.getvalue()


def _harmless(column: str, value: str | int | None) -> str | int | None:
    if column in ("actor", "note") and isinstance(value, str) and value[:1] in _FORMULA:
        return f"'{value}"
    return value


_FORMULA = frozenset("=+-@\t\r")
