"""What was bought, and what came of it: by day, account, key, service, country and upstream. Units of work.

Ended activations are added up in `usage_days`, each once: the unit that adds one marks it in the same transaction.
What is not marked yet, open ones among it, is read as it stands, in the same moment; so a report is always current, and
says the same before and after a roll-up. Days are those of the purchase, UTC.

Delivered is what was paid for: a code that came, a rental that was kept, more time for one. Orders that got no number
are none.

What is left of it depends on who asks. The operator sells to the accounts at the top: its margin is what they pay less
what upstreams take. An account with others below it earns the difference between what the one below pays it and what
it pays itself (`hold_shares`); of the operator's costs its report knows nothing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from operator import itemgetter
from typing import Any

from gateway.money import plain
from gateway.store import Row, Tx

DAY_SECONDS = 86_400
BATCH = 200
"""Activations added up in one unit of work: writers on SQLite wait for it."""

DIMENSIONS = ("day", "account", "key", "service", "country", "upstream")
"""What a report can be broken down by."""

RESELLER_DIMENSIONS = tuple(name for name in DIMENSIONS if name != "upstream")
"""What a reseller may break its own down by: whom the operator buys from is the operator's to know."""

COUNTS = ("bought", "delivered", "cancelled", "expired")
DAYS_MAX = 3660

_COLUMNS = {name: name if name in ("day", "service", "country", "upstream") else f"{name}_id" for name in DIMENSIONS}
_PLACE = ("account_id", "day", "key_id", "service", "country", "upstream", "currency")
_KEY = (*_PLACE, "cost_currency")
_COUNTED = (*COUNTS, "spent")
_SUMS = (*_COUNTED, "sold", "cost")
_MARGIN_KEY = ("seller_id", *_PLACE)

# SQLite cuts a fraction off and PostgreSQL rounds: taking one off where it was rounded up is the floor on both.
_DAY = (
    "cast(opened_at / 86400 as bigint)"
    " - case when cast(opened_at / 86400 as bigint) > opened_at / 86400 then 1 else 0 end"
)
_IS_PAID = (
    "(status in ('received', 'retrying', 'finished') or (status = 'waiting' and coalesce(refundable_until, 1) = 0))"
)
_PLACE_OF_ONE = f"account_id, {_DAY} as day, key_id, service, country, coalesce(upstream, '') as upstream, currency"
_COUNTED_OF_ONE = (
    f"1 as bought, case when {_IS_PAID} then 1 else 0 end as delivered,"
    " case when status = 'cancelled' then 1 else 0 end as cancelled,"
    " case when status = 'expired' then 1 else 0 end as expired,"
    f" case when {_IS_PAID} then price else 0 end as spent"
)
_TOP_PRICE = (
    "coalesce((select s.price from hold_shares s where s.activation_id = activations.id and s.level = 0), price)"
)
_ONE = (
    f"{_PLACE_OF_ONE}, coalesce(cost_currency, currency) as cost_currency, {_COUNTED_OF_ONE},"
    f" case when {_IS_PAID} then {_TOP_PRICE} else 0 end as sold,"
    f" case when {_IS_PAID} then coalesce(cost, 0) else 0 end as cost"
)
"""One activation as a row of usage; what is written down and what is read as it stands are both made of this."""

_EARNED_OF_ONE = (
    f"case when {_IS_PAID} then coalesce((select b.price - s.price from hold_shares s"  # noqa: S608 — constant text
    " join hold_shares b on b.activation_id = s.activation_id and b.level = s.level + 1"
    " where s.activation_id = activations.id and s.account_id = :within), 0) else 0 end as earned"
)
"""What the account of the report earned by one activation: nothing by its own."""

_IS_SHARED = "exists (select 1 from hold_shares s where s.activation_id = activations.id) as is_shared"

_IN_DAYS = "day >= :first and day < :end"
_GOT_A_NUMBER = "status not in ('opening', 'failed')"
_NOT_COUNTED = f"counted = 0 and {_GOT_A_NUMBER} and opened_at >= :begins and opened_at < :ends"
_BELOW = "account_id in (select account_id from account_tree where ancestor_id = :within)"

_OF_EVERYBODY = (
    f"select {', '.join((*_KEY, *_SUMS))} from usage_days where {_IN_DAYS}"  # noqa: S608 — names of our own columns
    f" union all select * from (select {_ONE} from activations where {_NOT_COUNTED}) a where {_IN_DAYS}"
)
_OF_A_BRANCH = (
    f"select {', '.join((*_PLACE, *_COUNTED))}, 0 as earned from usage_days where {_IN_DAYS} and {_BELOW}"  # noqa: S608
    f" union all select {', '.join(_PLACE)}, {', '.join('0' for _ in _COUNTED)}, amount from usage_margins"
    f" where seller_id = :within and {_IN_DAYS}"
    f" union all select * from (select {_PLACE_OF_ONE}, {_COUNTED_OF_ONE}, {_EARNED_OF_ONE}"
    f" from activations where {_NOT_COUNTED} and {_BELOW}) a where {_IN_DAYS}"
)


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for: days since the epoch, `end` not included.

    Without `within` it is the operator's report, of every account; with one, that account's, of itself and all below.
    """

    first: int
    end: int
    by: tuple[str, ...] = ("day",)
    within: int | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a report. `place` has a value for each dimension asked for; amounts are micro-units.

    `spent` is what those who bought were charged. `margin` is what was left of it for whose report it is, by currency,
    since what an upstream takes may be in another one than what a caller pays; an account's is in its own alone.
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
        f" where counted = 0 and ended_at is not null limit :most) returning id, status, {_ONE}, {_IS_SHARED}",
        most=most,
    )
    sums: _Sums = {}
    for row in rows:
        if row["status"] not in ("opening", "failed"):
            _count(sums, [row[name] for name in _KEY], [row[name] for name in _SUMS])
    _add(tx, "usage_days", _KEY, _SUMS, sums)
    if shared := {row["id"]: row for row in rows if row["is_shared"] and row["delivered"]}:
        _add(tx, "usage_margins", _MARGIN_KEY, ("amount",), _margins(tx, shared))
    return len(rows)


_Sums = dict[tuple[Any, ...], list[int]]


def _margins(tx: Tx, shared: Mapping[int, Row]) -> _Sums:
    """What each account above the buyers earned by these activations, by seller and place."""
    sums: _Sums = {}
    for earned in tx.all(
        "select s.activation_id, s.account_id as seller_id, b.price - s.price as amount from hold_shares s"  # noqa: S608 — ids
        " join hold_shares b on b.activation_id = s.activation_id and b.level = s.level + 1"
        f" where b.price > s.price and s.activation_id in ({', '.join(map(str, sorted(shared)))})"
    ):
        place = shared[earned["activation_id"]]
        _count(sums, [earned["seller_id"], *(place[name] for name in _PLACE)], [earned["amount"]])
    return sums


def _count(sums: _Sums, key: Sequence[Any], steps: Sequence[int]) -> None:
    of_place = sums.setdefault(tuple(key), [0] * len(steps))
    for index, step in enumerate(steps):
        of_place[index] += step


def _add(tx: Tx, table: str, key: Sequence[str], columns: Sequence[str], sums: _Sums) -> None:
    names = (*key, *columns)
    added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in columns)
    # In one order everywhere, so that two processes never wait for each other in a circle.
    for place in sorted(sums):
        tx.execute(
            f"insert into {table} ({', '.join(names)}) values ({', '.join(f':{name}' for name in names)})"  # noqa: S608 — names of our own
            f" on conflict ({', '.join(key)}) do update set {added}",
            **dict(zip(names, (*place, *sums[place]), strict=True)),
        )


def verify(tx: Tx) -> Iterable[str]:
    """What is added up against the activations it was made of; a sentence for each thing that does not add up."""
    counted = f"select {_ONE} from activations where counted = 1 and {_GOT_A_NUMBER}"  # noqa: S608 — constant text
    yield from _compared(tx, "usage_days", counted, ("currency", "cost_currency"), _SUMS)
    yield from _compared(tx, "usage_margins", _EARNED_OF_COUNTED, ("seller_id", "currency"), ("amount",))


_EARNED_OF_COUNTED = (
    "select s.account_id as seller_id, a.currency, b.price - s.price as amount from hold_shares s"  # noqa: S608 — constant text
    " join hold_shares b on b.activation_id = s.activation_id and b.level = s.level + 1"
    f" join activations a on a.id = s.activation_id where b.price > s.price and a.counted = 1 and {_IS_PAID}"
)


def _compared(tx: Tx, table: str, made: str, key: Sequence[str], sums: Sequence[str]) -> Iterable[str]:
    shown = _totals(tx, f"select {', '.join((*key, *sums))} from {table}", key, sums)  # noqa: S608 — names of our own
    wanted = _totals(tx, made, key, sums)
    for place in sorted(shown.keys() | wanted.keys()):
        if shown.get(place) != wanted.get(place):
            yield f"{table}: {place} sums to {shown.get(place)}, the activations say {wanted.get(place)}"


def _totals(tx: Tx, source: str, key: Sequence[str], sums: Sequence[str]) -> dict[tuple[Any, ...], dict[str, int]]:
    places = ", ".join(key)
    summed = ", ".join(f"sum({name}) as {name}" for name in sums)
    rows = tx.all(f"select {places}, {summed} from ({source}) u group by {places}")  # noqa: S608 — names of our own columns
    return {tuple(row[name] for name in key): {name: int(row[name]) for name in sums} for row in rows}


# Reporting


def report(tx: Tx, query: Query) -> list[Line]:
    """The lines of a report, in the order of what it is broken down by. ValueError on what there is not."""
    if unknown := [name for name in query.by if name not in DIMENSIONS]:
        raise ValueError(f"usage has no {unknown[0]}: it is by {', '.join(DIMENSIONS)}")
    if len(set(query.by)) < len(query.by):
        raise ValueError("each can be named once")
    if not 0 <= query.end - query.first <= DAYS_MAX:
        raise ValueError(f"a report is for up to {DAYS_MAX} days, and ends after it begins")
    if query.within is None:
        rows = _summed(tx, query, _OF_EVERYBODY, (*_columns(query.by), "cost_currency"), _SUMS)
        return _folded(tx, query.by, rows, _operators_margin)
    sums = (*_COUNTED, "earned")
    rows = _summed(tx, query, _OF_A_BRANCH, _columns(query.by), sums, within=query.within)
    return _folded(tx, query.by, rows, _accounts_margin)


def _columns(by: Sequence[str]) -> tuple[str, ...]:
    return (*(_COLUMNS[name] for name in by), "currency")


def _summed(
    tx: Tx, query: Query, source: str, places: Sequence[str], sums: Sequence[str], **given: int
) -> Sequence[Row]:
    # As PostgreSQL has them, sums of whole numbers are decimals, which take long to read.
    summed = ", ".join(f"cast(sum({name}) as bigint) as {name}" for name in sums)
    # Days are picked out within: what is picked here PostgreSQL takes to be next to nothing, and sorts it on disk.
    return tx.all(
        f"select {', '.join(places)}, {summed} from ({source}) u group by {', '.join(places)}",  # noqa: S608 — constant text and names of our own columns
        first=query.first,
        end=query.end,
        # A day more on either side: which day it is of is decided above.
        begins=float((query.first - 1) * DAY_SECONDS),
        ends=float((query.end + 1) * DAY_SECONDS),
        **given,
    )


def _folded(
    tx: Tx, by: Sequence[str], rows: Sequence[Row], margin: Callable[[str, Sequence[Row]], Mapping[str, int]]
) -> list[Line]:
    """Rows that differ in the currency of their cost alone become one line."""
    columns, names = _columns(by), _account_names(tx) if "account" in by else {}
    shown = [_SHOWN_BY.get(name, _as_it_is) for name in by]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple([row[column] for column in columns]), []).append(row)
    lines = []
    # Put in order here: asked to, PostgreSQL would sort all it adds up, by the rules of a language.
    for values, group in sorted(groups.items(), key=itemgetter(0)):
        place = {name: show(value, names) for name, show, value in zip(by, shown, values, strict=False)}
        counted = {name: group[0][name] if len(group) == 1 else sum([row[name] for row in group]) for name in _COUNTED}
        lines.append(Line(place, values[-1], **counted, margin=margin(values[-1], group)))
    return lines


def _operators_margin(currency: str, rows: Sequence[Row]) -> dict[str, int]:
    return margin_of(currency, sum(row["sold"] for row in rows), {row["cost_currency"]: row["cost"] for row in rows})


def _accounts_margin(currency: str, rows: Sequence[Row]) -> dict[str, int]:
    return {currency: sum([row["earned"] for row in rows])}


def margin_of(currency: str, sold: int, costs: Mapping[str, int]) -> dict[str, int]:
    """What is left of such sales after such costs, by currency."""
    left = {currency: sold}
    for name, cost in costs.items():
        left[name] = left.get(name, 0) - cost
    return {name: micros for name, micros in left.items() if micros or name == currency}


def _account_names(tx: Tx) -> dict[int, str]:
    return {row["id"]: row["name"] for row in tx.all("select id, name from accounts")}


def _as_it_is(value: Any, _accounts: Mapping[int, str]) -> Any:
    return value


def _as_day(value: int, _accounts: Mapping[int, str]) -> str:
    return day_text(value)


def _as_account(value: int, accounts: Mapping[int, str]) -> str:
    return accounts.get(value, str(value))


_SHOWN_BY: Mapping[str, Callable[[Any, Mapping[int, str]], Any]] = {"day": _as_day, "account": _as_account}
"""What a person reads in place of an id or a number of days."""


def day_of(moment: date) -> int:
    """Days since the epoch."""
    return moment.toordinal() - date(1970, 1, 1).toordinal()


@lru_cache(DAYS_MAX)
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
