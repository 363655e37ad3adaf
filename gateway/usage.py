"""What was bought, and what came of it: by day, account, key, service, country and upstream. Units of work.

Ended activations are added up in `usage_days`, each once: the unit that adds one marks it in the same transaction.
What is not marked yet, open ones among it, is read as it stands, in the same moment; so a report is always current, and
says the same before and after a roll-up. Days are those of the purchase, UTC.

Delivered is what was paid for: a code that came, a rental that was kept, more time for one. Orders that got no number
are none.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from operator import itemgetter
from typing import Any

from gateway.money import plain
from gateway.store import Row, Tx

DAY_SECONDS = 86_400
BATCH = 200
"""Activations added up in one unit of work: writers on SQLite wait for it."""

DIMENSIONS = ("day", "account", "key", "service", "country", "upstream")
"""What a report can be broken down by."""

COUNTS = ("bought", "delivered", "cancelled", "expired")
DAYS_MAX = 3660

_COLUMNS = {name: name if name in ("day", "service", "country", "upstream") else f"{name}_id" for name in DIMENSIONS}
_KEY = ("account_id", "day", "key_id", "service", "country", "upstream", "currency", "cost_currency")
_SUMS = (*COUNTS, "spent", "cost")
_COUNTED = (*COUNTS, "spent")

# SQLite cuts a fraction off and PostgreSQL rounds: taking one off where it was rounded up is the floor on both.
_DAY = (
    "cast(opened_at / 86400 as bigint)"
    " - case when cast(opened_at / 86400 as bigint) > opened_at / 86400 then 1 else 0 end"
)
_IS_PAID = (
    "(status in ('received', 'retrying', 'finished') or (status = 'waiting' and coalesce(refundable_until, 1) = 0))"
)
_ONE = (
    f"account_id, {_DAY} as day, key_id, service, country, coalesce(upstream, '') as upstream, currency,"
    " coalesce(cost_currency, currency) as cost_currency, 1 as bought,"
    f" case when {_IS_PAID} then 1 else 0 end as delivered,"
    " case when status = 'cancelled' then 1 else 0 end as cancelled,"
    " case when status = 'expired' then 1 else 0 end as expired,"
    f" case when {_IS_PAID} then price else 0 end as spent,"
    f" case when {_IS_PAID} then coalesce(cost, 0) else 0 end as cost"
)
"""One activation as a row of usage; what is written down and what is read as it stands are both made of this."""

_GOT_A_NUMBER = "status not in ('opening', 'failed')"


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for: days since the epoch, `end` not included; one account with all below it, or every."""

    first: int
    end: int
    by: tuple[str, ...] = ("day",)
    within: int | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a report. `place` has a value for each dimension asked for; amounts are micro-units.

    `margin` is by currency, since what an upstream takes may be in another one than what a caller pays.
    """

    place: Mapping[str, Any]
    currency: str
    bought: int
    delivered: int
    cancelled: int
    expired: int
    spent: int
    margin: Mapping[str, int] = field(default_factory=dict)


# Adding up


def roll_up(tx: Tx, most: int = BATCH) -> int:
    """Adds ended activations to their days and marks them; how many. Of two processes at once each takes others."""
    rows = tx.all(
        f"update activations set counted = 1 where counted = 0 and id in (select id from activations"  # noqa: S608 — constant text
        f" where counted = 0 and ended_at is not null limit :most) returning status, {_ONE}",
        most=most,
    )
    sums: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        if row["status"] not in ("opening", "failed"):
            of_place = sums.setdefault(tuple(row[name] for name in _KEY), [0] * len(_SUMS))
            for index, name in enumerate(_SUMS):
                of_place[index] += row[name]
    # In one order everywhere, so that two processes never wait for each other in a circle.
    for key in sorted(sums):
        _add(tx, key, sums[key])
    return len(rows)


def _add(tx: Tx, key: Sequence[Any], sums: Sequence[int]) -> None:
    names = (*_KEY, *_SUMS)
    added = ", ".join(f"{name} = usage_days.{name} + excluded.{name}" for name in _SUMS)
    tx.execute(
        f"insert into usage_days ({', '.join(names)}) values ({', '.join(f':{name}' for name in names)})"  # noqa: S608 — names of our own columns
        f" on conflict ({', '.join(_KEY)}) do update set {added}",
        **dict(zip(names, (*key, *sums), strict=True)),
    )


# Reporting


def report(tx: Tx, query: Query) -> list[Line]:
    """The lines of a report, in the order of what it is broken down by. ValueError on what there is not."""
    if unknown := [name for name in query.by if name not in DIMENSIONS]:
        raise ValueError(f"usage has no {unknown[0]}: it is by {', '.join(DIMENSIONS)}")
    if len(set(query.by)) < len(query.by):
        raise ValueError("each can be named once")
    if not 0 <= query.end - query.first <= DAYS_MAX:
        raise ValueError(f"a report is for up to {DAYS_MAX} days, and ends after it begins")
    return _folded(tx, query.by, _rows(tx, query))


def _rows(tx: Tx, query: Query) -> Sequence[Row]:
    within = (
        ""
        if query.within is None
        else " and account_id in (select account_id from account_tree where ancestor_id = :within)"
    )
    places = ", ".join([*(_COLUMNS[name] for name in query.by), "currency", "cost_currency"])
    # As PostgreSQL has them, sums of whole numbers are decimals, which take long to read.
    sums = ", ".join(f"cast(sum({name}) as bigint) as {name}" for name in _SUMS)
    given = {} if query.within is None else {"within": query.within}
    return tx.all(
        f"select {places}, {sums} from ("  # noqa: S608 — constant text and names of our own columns
        f" select {', '.join((*_KEY, *_SUMS))} from usage_days"
        f" where day >= :first and day < :end{within}"
        f" union all select {_ONE} from activations where counted = 0 and {_GOT_A_NUMBER}"
        f" and opened_at >= :begins and opened_at < :ends{within}"
        f") u where day >= :first and day < :end group by {places}",
        first=query.first,
        end=query.end,
        # A day more on either side: which day it is of is decided above.
        begins=float((query.first - 1) * DAY_SECONDS),
        ends=float((query.end + 1) * DAY_SECONDS),
        **given,
    )


def _folded(tx: Tx, by: Sequence[str], rows: Sequence[Row]) -> list[Line]:
    """Rows that differ in the currency of their cost alone become one line."""
    names = _account_names(tx) if "account" in by else {}
    columns = [*(_COLUMNS[name] for name in by), "currency"]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple([row[column] for column in columns]), []).append(row)
    lines = []
    # Put in order here: asked to, PostgreSQL would sort all it adds up, by the rules of a language.
    for (*values, currency), group in sorted(groups.items(), key=itemgetter(0)):
        sums = [0] * len(_COUNTED)
        costs: dict[str, int] = {}
        for row in group:
            sums = [already + row[name] for already, name in zip(sums, _COUNTED, strict=True)]
            costs[row["cost_currency"]] = row["cost"]
        place = {name: _shown(name, value, names) for name, value in zip(by, values, strict=True)}
        bought, delivered, cancelled, expired, spent = sums
        margin = margin_of(currency, spent, costs)
        lines.append(Line(place, currency, bought, delivered, cancelled, expired, spent, margin))
    return lines


def margin_of(currency: str, spent: int, costs: Mapping[str, int]) -> dict[str, int]:
    """What is left of so much spent after such costs, by currency: price less cost."""
    left = {currency: spent}
    for name, cost in costs.items():
        left[name] = left.get(name, 0) - cost
    return {name: micros for name, micros in left.items() if micros or name == currency}


def _account_names(tx: Tx) -> dict[int, str]:
    return {row["id"]: row["name"] for row in tx.all("select id, name from accounts")}


def _shown(name: str, value: Any, accounts: Mapping[int, str]) -> Any:
    if name == "day":
        return day_text(value)
    return accounts.get(value, str(value)) if name == "account" else value


def day_of(moment: date) -> int:
    """Days since the epoch."""
    return moment.toordinal() - date(1970, 1, 1).toordinal()


def day_text(day: int) -> str:
    return date.fromordinal(date(1970, 1, 1).toordinal() + day).isoformat()


# For people and programs


def as_fields(line: Line) -> dict[str, Any]:
    """A line as plain values; amounts are decimals as text."""
    return {
        **line.place,
        **{name: getattr(line, name) for name in COUNTS},
        "spent": plain(line.spent),
        "currency": line.currency,
        "margin": {name: plain(micros) for name, micros in line.margin.items()},
    }


def as_row(line: Line) -> dict[str, Any]:
    """As `as_fields`, with the margin in one cell: `0.30 USD`, or `1.00 EUR -0.80 USD` where costs are in another."""
    fields = as_fields(line)
    return {**fields, "margin": " ".join(f"{amount} {name}" for name, amount in fields["margin"].items())}


def columns(by: Sequence[str]) -> tuple[str, ...]:
    return (*by, *COUNTS, "spent", "currency", "margin")


def as_csv(lines: Sequence[Line], by: Sequence[str]) -> str:
    """A header and a row for each line."""
    output = io.StringIO()
    writer = csv.DictWriter(output, columns(by), lineterminator="\n")
    writer.writeheader()
    writer.writerows(as_row(line) for line in lines)
    return output.getvalue()
