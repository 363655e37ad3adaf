"""Usage: what is added up and what is read as it stands make the same report as counting everything again.

Counts are compared with the orders, margins with what the ledger booked for the very same orders.
"""

from __future__ import annotations

import asyncio
import csv
import io
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import accounts, ledger, usage
from gateway.database import Database, open_database
from gateway.money import Money
from gateway.store import Row, Tx
from tests.harness import config_directory, environment
from tests.shell import Shell

DAY = 86_400
FIRST = 20_000
"""The day everything begins, in days since the epoch."""

STATUSES = ("opening", "waiting", "received", "retrying", "finished", "cancelled", "expired", "failed")
OVER = ("finished", "cancelled", "expired", "failed")
PAID = ("received", "retrying", "finished")
DEPTHS = {"top": 0, "left": 1, "right": 1, "twig": 2, "elsewhere": 0}
PAID_IN = 10**13
_numbers = itertools.count(1)


def plant(tx: Tx) -> None:
    """top, below it left and right, below left twig; elsewhere in another currency. A key each, with the ids of both
    in the order of their names here."""
    for name, parent in (("top", None), ("left", "top"), ("right", "top"), ("twig", "left"), ("elsewhere", None)):
        currency = "EUR" if name == "elsewhere" else "USD"
        account_id = accounts.create(tx, name, currency, 0.0, is_demo=False, parent=parent)
        tx.execute(
            "insert into api_keys (account_id, digest, hint, created_at) values (:id, :digest, 'abcd', 0)",
            id=account_id,
            digest=f"1:{name}",
        )
        ledger.deposit(tx, account_id, Money(PAID_IN, currency), 0.0, actor="test")


def shares_of(one: Mapping[str, Any]) -> list[int]:
    """What each account pays, from the top to the buyer."""
    return list(itertools.accumulate((one["price"], *one["markups"][: DEPTHS[one["account"]]])))


def is_paid(one: Mapping[str, Any]) -> bool:
    return one["status"] in PAID or bool(one.get("is_kept") and one["status"] == "waiting")


def add(tx: Tx, one: Mapping[str, Any]) -> int:
    """An activation as it would stand, with its money."""
    number = next(_numbers)
    got_number = one["status"] not in ("opening", "failed")
    shares = shares_of(one)
    activation_id = tx.insert(
        "insert into activations (account_id, key_id, service, country, operator, status, price, currency, upstream,"
        " reference, cost, cost_currency, opened_at, ended_at, fingerprint, config_version, product, refundable_until)"
        " select a.id, k.id, :service, 6, '', :status, :price, a.currency, :upstream, :reference, :cost,"
        " :cost_currency, :opened_at, :ended_at, '', '1', :product, :refundable"
        " from accounts a join api_keys k on k.account_id = a.id where a.name = :account returning id",
        account=one["account"], service=one["service"], status=one["status"], price=shares[-1],
        upstream=one["upstream"] if got_number else None, reference=f"r{number}" if got_number else None,
        cost=one["cost"] if got_number else None, cost_currency=one["cost_currency"] if got_number else None,
        opened_at=one["opened_at"], ended_at=one["opened_at"] + 60 if one["status"] in OVER else None,
        product="rental" if one.get("is_kept") else "sms", refundable=0.0 if one.get("is_kept") else None,
    )  # fmt: skip
    account = accounts.find(tx, one["account"])
    ledger.hold(
        tx, account["id"], activation_id, Money(shares[-1], account["currency"]), one["opened_at"], open_max=10**6,
        actor="test", shares=shares if any(one["markups"]) else (),
    )  # fmt: skip
    _close(tx, activation_id, one)
    return activation_id


def _close(tx: Tx, activation_id: int, one: Mapping[str, Any]) -> None:
    at = one["opened_at"] + 60
    if is_paid(one):
        cost = Money(one["cost"], one["cost_currency"])
        ledger.capture(tx, activation_id, cost, one["upstream"], at, actor="test")
    elif one["status"] in OVER:
        ledger.release(tx, activation_id, at, actor="test")
    if one["status"] in OVER:
        ledger.leave(tx, accounts.find(tx, one["account"])["id"], activation_id)


def end_one(tx: Tx, activation_id: int, one: Mapping[str, Any]) -> None:
    """An open activation ends, days after it began."""
    tx.execute(
        "update activations set status = :status, ended_at = opened_at + 777600 where id = :id",
        status=one["status"], id=activation_id,
    )  # fmt: skip
    _close(tx, activation_id, one)


BELOW = {
    "top": {"top", "left", "right", "twig"},
    "left": {"left", "twig"},
    "twig": {"twig"},
    "elsewhere": {"elsewhere"},
}


Ones = Mapping[int, Mapping[str, Any]]
"""Orders by the id of their activation."""


def recounted(
    ones: Ones, booked: Sequence[Row], seller: tuple[str, int] | None, by: Sequence[str]
) -> dict[tuple[Any, ...], list[Any]]:
    """What a report has to say, from the orders and the ledger alone, in another way than the report does."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    margins: dict[tuple[Any, ...], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for one in ones.values():
        if (seller and one["account"] not in BELOW[seller[0]]) or one["status"] in ("opening", "failed"):
            continue
        counts = found.setdefault(_place(one, by), [0, 0, 0, 0, 0])
        paid = is_paid(one)
        spent = paid * shares_of(one)[-1]
        steps = (1, paid, one["status"] == "cancelled", one["status"] == "expired", spent)
        for index, step in enumerate(steps):
            counts[index] += step
    for row in booked:
        if row["activation_id"] not in ones:
            continue
        of_place = margins[_place(ones[row["activation_id"]], by)]
        if seller is None:
            of_place[row["currency"]] += {"capture": 1, "cost": -1}.get(row["kind"], 0) * row["amount"]
        elif row["kind"] == "margin" and row["credit"] == ledger.available(seller[1]):
            of_place[row["currency"]] += row["amount"]
    return {place: [*counts, {k: v for k, v in margins[place].items() if v}] for place, counts in found.items()}


def _place(one: Mapping[str, Any], by: Sequence[str]) -> tuple[Any, ...]:
    """Its line; the currency tells lines apart as well."""
    currency = "EUR" if one["account"] == "elsewhere" else "USD"
    values = {**one, "day": usage.day_text(int(one["opened_at"] // DAY))}
    return (*(values[name] for name in by), currency)


def told(lines: Sequence[usage.Line], by: Sequence[str]) -> dict[tuple[Any, ...], list[Any]]:
    return {
        (*(line.place[name] for name in by), line.currency): [
            line.bought, line.delivered, line.cancelled, line.expired, line.spent,
            {name: micros for name, micros in line.margin.items() if micros},
        ]
        for line in lines
    }  # fmt: skip


one_activation = st.fixed_dictionaries(
    {
        "account": st.sampled_from(["top", "left", "right", "twig", "elsewhere"]),
        "service": st.sampled_from(["tg", "wa"]),
        "status": st.sampled_from(STATUSES),
        "price": st.integers(0, 10**9),
        "cost": st.integers(0, 10**9),
        # What the first and the second account from the top add; two noughts are a branch without markups.
        "markups": st.sampled_from([(0, 0), (0, 0), (70_000, 0), (0, 40_000), (30_000, 5_000), (1, 10**9)]),
        "upstream": st.sampled_from(["one", "two"]),
        "cost_currency": st.sampled_from(["USD", "RUB"]),
        # Around midnight above all: that is where days could be told apart wrongly.
        "after": st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.4, 0.6, 43_200.0, DAY - 0.6, DAY - 0.001])),
        "is_kept": st.booleans(),
    }
)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await asyncio.to_thread(open_database, environment(database_url))
    await opened.store.run(plant)
    yield opened
    await opened.store.close()


async def check(database: Database, ones: Ones, first: int = FIRST) -> None:
    for within, by in (
        (None, ("day", "account")),
        (None, ("upstream",)),
        ("top", ("day", "service")),
        ("top", ("account", "upstream")),
        ("left", ("account", "upstream")),
        ("elsewhere", ()),
        ("twig", ("day",)),
    ):

        def read(
            tx: Tx, within: str | None = within, by: tuple[str, ...] = by
        ) -> tuple[list[usage.Line], dict[tuple[Any, ...], list[Any]]]:
            seller_id = accounts.find(tx, within)["id"] if within else None
            booked = tx.all("select activation_id, kind, credit, amount, currency from ledger where activation_id > 0")
            lines = usage.report(tx, usage.Query(first, first + 4, by, seller_id))
            seller = (within, seller_id) if within is not None and seller_id is not None else None
            return lines, recounted(ones, booked, seller, by)

        lines, wanted = await database.store.read(read)
        assert told(lines, by) == wanted


_examples = itertools.count()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(one_activation, min_size=5, max_size=30), st.lists(st.sampled_from(OVER), max_size=30), st.integers(1, 9)
)
async def test_a_report_is_what_counting_again_and_the_ledger_say_at_any_time(
    database: Database, made: list[dict[str, Any]], ends: list[str], batch: int
) -> None:
    # Days of its own for each example: what the ledger has is never deleted.
    first = FIRST + 10 * next(_examples)
    ones: dict[int, dict[str, Any]] = {}
    for one in made:
        opened_at = (first + one["after"][0]) * DAY + one["after"][1]
        ones[await database.store.run(add, {**one, "opened_at": opened_at})] = {**one, "opened_at": opened_at}
    await check(database, ones, first)
    await database.store.run(usage.roll_up, batch)
    await check(database, ones, first)
    # What was open ends meanwhile, and is added up later.
    for (activation_id, one), end in zip(list(ones.items()), ends, strict=False):
        if one["status"] == "waiting" and not one["is_kept"] and end != "failed":
            ones[activation_id] = {**one, "status": end}
            await database.store.run(end_one, activation_id, ones[activation_id])
    while await database.store.run(usage.roll_up, batch):
        await check(database, ones, first)
    await check(database, ones, first)
    left = await database.store.read(
        lambda tx: tx.one(
            "select count(*) as n from activations where counted = 0 and opened_at >= :at", at=first * DAY
        )
    )
    assert left is not None
    assert left["n"] == sum(one["status"] not in OVER for one in ones.values())
    assert await database.store.read(lambda tx: [*ledger.verify(tx), *usage.verify(tx)]) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("update usage_days set sold = sold - 1", "usage_days: ('USD', 'USD') sums to"),
        ("delete from usage_days", "usage_days: ('USD', 'USD') sums to None"),
        ("update usage_margins set amount = amount + 1 where amount = 70000", "usage_margins: ("),
        ("update activations set counted = 0", "the activations say None"),
    ],
)
async def test_what_is_added_up_wrongly_is_found(database: Database, change: str, words: str) -> None:
    await database.store.run(add, an_activation(markups=(70_000, 30_000)))
    await database.store.run(usage.roll_up)
    assert await database.store.read(lambda tx: list(usage.verify(tx))) == []
    await database.store.run(lambda tx: tx.execute(change))
    problems = await database.store.read(lambda tx: list(usage.verify(tx)))
    assert problems
    assert words in problems[0]


def an_activation(**more: Any) -> dict[str, Any]:
    usual = {"account": "twig", "service": "tg", "status": "finished", "price": 500_000, "cost": 200_000,
             "upstream": "one", "cost_currency": "USD", "opened_at": FIRST * DAY + 1.0, "markups": (0, 0)}  # fmt: skip
    return {**usual, **more}


async def test_processes_that_add_up_at_once_count_everything_once(database: Database) -> None:
    made = [an_activation(service=f"s{number % 7}", markups=(number % 3, number % 2)) for number in range(200)]
    ones = {await database.store.run(add, one): one for one in made}
    counted = await asyncio.gather(*(database.store.run(usage.roll_up, 30) for _ in range(10)))
    while more := await database.store.run(usage.roll_up, 30):
        counted.append(more)
    assert sum(counted) == 200
    await check(database, ones)
    rows = await database.store.read(lambda tx: tx.one("select sum(bought) as n, sum(spent) as spent from usage_days"))
    assert rows is not None
    assert (int(rows["n"]), int(rows["spent"])) == (200, sum(shares_of(one)[-1] for one in made))


async def test_who_earned_nothing_and_flat_branches_leave_no_rows_of_margins(database: Database) -> None:
    for one in (
        an_activation(),
        an_activation(markups=(0, 40_000)),
        an_activation(markups=(70_000, 0), status="expired"),
        an_activation(markups=(70_000, 0), account="top"),
    ):
        await database.store.run(add, one)
    assert await database.store.run(usage.roll_up) == 4
    rows = await database.store.read(lambda tx: tx.all("select * from usage_margins"))
    seller_id = await database.store.read(lambda tx: accounts.find(tx, "left")["id"])
    assert [(row["seller_id"], row["amount"], row["day"]) for row in rows] == [(seller_id, 40_000, FIRST)]


async def test_a_reseller_learns_nothing_of_costs_and_of_other_margins(database: Database) -> None:
    """Whatever upstreams take, in whatever currency, and whatever those above it earn: its report is the same."""
    reports = []
    for number, (cost, currency, markups) in enumerate(
        ((1, "USD", (10, 30_000)), (9_999, "RUB", (70_000, 30_000)), (0, "USD", (0, 30_000)))
    ):
        first = FIRST + 10 * number
        price = 200_000 - markups[0]
        one = an_activation(price=price, cost=cost, cost_currency=currency, markups=markups, opened_at=first * DAY + 1)
        await database.store.run(add, one)

        def read(tx: Tx, first: int = first) -> list[usage.Line]:
            by = tuple(name for name in usage.RESELLER_DIMENSIONS if name != "day")
            return usage.report(tx, usage.Query(first, first + 1, by, accounts.find(tx, "left")["id"]))

        reports.append(await database.store.read(read))
        await database.store.run(usage.roll_up)
        reports.append(await database.store.read(read))
    assert [line.margin for line in reports[0]] == [{"USD": 30_000}]
    assert all(report == reports[0] for report in reports)


def test_the_margin_is_by_currency() -> None:
    assert usage.margin_of("USD", 500, {"USD": 200}) == {"USD": 300}
    assert usage.margin_of("EUR", 500, {"USD": 200, "EUR": 100}) == {"EUR": 400, "USD": -200}
    assert usage.margin_of("EUR", 0, {"USD": 0}) == {"EUR": 0}


@pytest.fixture
def shell(tmp_path: Path, sqlite_url: str) -> Shell:
    values = environment(sqlite_url)

    async def fill() -> None:
        database = open_database(values)
        await database.store.run(plant)
        for one in (
            an_activation(price=400_000, markups=(70_000, 30_000)),
            an_activation(status="cancelled"),
            an_activation(opened_at=(FIRST + 1) * DAY + 5.0, status="expired", account="left"),
            an_activation(account="elsewhere", cost_currency="USD"),
        ):
            await database.store.run(add, one)
        await database.store.close()

    asyncio.run(fill())
    return Shell(config_directory(tmp_path), values)


SPAN = ("--from", usage.day_text(FIRST), "--to", usage.day_text(FIRST + 2))


def test_the_command_shows_a_branch_by_what_is_asked(shell: Shell) -> None:
    rows = shell.json("usage", "--account", "left", *SPAN, "--by", "day,account")
    counts = {"bought": 2, "delivered": 1, "cancelled": 1, "expired": 0, "spent": "0.50", "currency": "USD"}
    assert rows == [
        {"day": "2024-10-04", "account": "twig", **counts, "margin": {"USD": "0.03"}},
        {"day": "2024-10-05", "account": "left", "bought": 1, "delivered": 0, "cancelled": 0, "expired": 1,
         "spent": "0.00", "currency": "USD", "margin": {"USD": "0.00"}},
    ]  # fmt: skip
    assert shell.json("usage", "--account", "right", *SPAN) == []
    assert [row["margin"] for row in shell.json("usage", "--account", "top", *SPAN)] == [
        {"USD": "0.07"},
        {"USD": "0.00"},
    ]
    assert [row["margin"] for row in shell.json("usage", "--account", "twig", *SPAN)] == [{"USD": "0.00"}]
    every = list(csv.DictReader(io.StringIO(shell.ok("usage", *SPAN, "--by", "service", "--csv"))))
    assert [(row["service"], row["currency"], row["bought"], row["margin"]) for row in every] == [
        ("tg", "EUR", "1", "0.50 EUR -0.20 USD"),
        ("tg", "USD", "3", "0.20 USD"),
    ]
    table = shell.ok("usage", *SPAN, "--by", "key,country,upstream").splitlines()
    assert table[0].split() == ["KEY", "COUNTRY", "UPSTREAM", "BOUGHT", "DELIVERED", "CANCELLED", "EXPIRED", "SPENT",
                                "CURRENCY", "MARGIN"]  # fmt: skip
    assert len(table) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--by", "colour"), "usage has no colour: it is by day, account, key, service, country, upstream"),
        (("--by", "day,day"), "each can be named once"),
        (("--from", "yesterday"), "'yesterday' is not a day: YYYY-MM-DD"),
        (("--from", "2024-02-30"), "'2024-02-30' is not a day: YYYY-MM-DD"),
        (("--from", "2024-10-05", "--to", "2024-10-04"), "a report is for up to 3660 days, and ends after it begins"),
        (("--account", "nobody"), "there is no account nobody"),
    ],
)
def test_what_makes_no_sense_is_said_so(shell: Shell, arguments: tuple[str, ...], words: str) -> None:
    assert shell.refused("usage", *arguments) == f"Error: {words}\n"
