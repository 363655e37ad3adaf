"""Usage: what is added up and what is read as it stands make the same report as counting everything again."""

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

from gateway import accounts, usage
from gateway.database import Database, open_database
from gateway.store import Tx
from tests.harness import config_directory, environment
from tests.shell import Shell

DAY = 86_400
FIRST = 20_000
"""The day everything begins, in days since the epoch."""

STATUSES = ("opening", "waiting", "received", "retrying", "finished", "cancelled", "expired", "failed")
OVER = ("finished", "cancelled", "expired", "failed")
PAID = ("received", "retrying", "finished")
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


def add(tx: Tx, one: Mapping[str, Any]) -> int:
    """An activation as it would stand."""
    number = next(_numbers)
    got_number = one["status"] not in ("opening", "failed")
    return tx.insert(
        "insert into activations (account_id, key_id, service, country, operator, status, price, currency, upstream,"
        " reference, cost, cost_currency, opened_at, ended_at, fingerprint, config_version, product, refundable_until)"
        " select a.id, k.id, :service, 6, '', :status, :price, a.currency, :upstream, :reference, :cost,"
        " :cost_currency, :opened_at, :ended_at, '', '1', :product, :refundable"
        " from accounts a join api_keys k on k.account_id = a.id where a.name = :account returning id",
        account=one["account"], service=one["service"], status=one["status"], price=one["price"],
        upstream=one["upstream"] if got_number else None, reference=f"r{number}" if got_number else None,
        cost=one["cost"] if got_number else None, cost_currency=one["cost_currency"] if got_number else None,
        opened_at=one["opened_at"], ended_at=one["opened_at"] + 60 if one["status"] in OVER else None,
        product="rental" if one.get("is_kept") else "sms", refundable=0.0 if one.get("is_kept") else None,
    )  # fmt: skip


def end_one(tx: Tx, activation_id: int, status: str) -> None:
    """An open activation ends, days after it began."""
    tx.execute(
        "update activations set status = :status, ended_at = :at where id = :id",
        status=status, at=(FIRST + 9.0) * DAY, id=activation_id,
    )  # fmt: skip


BELOW = {
    "top": {"top", "left", "right", "twig"},
    "left": {"left", "twig"},
    "twig": {"twig"},
    "elsewhere": {"elsewhere"},
}


def recounted(ones: Sequence[Mapping[str, Any]], by: Sequence[str], within: str) -> dict[tuple[Any, ...], list[Any]]:
    """What a report has to say, from the activations alone, in another way than the report does."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    margins: dict[tuple[Any, ...], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for one in ones:
        if one["account"] not in BELOW[within] or one["status"] in ("opening", "failed"):
            continue
        values = {**one, "day": usage.day_text(int(one["opened_at"] // DAY))}
        place = tuple(values[name] for name in by)
        is_paid = one["status"] in PAID or bool(one.get("is_kept") and one["status"] == "waiting")
        counts = found.setdefault(place, [0, 0, 0, 0, 0])
        steps = (1, is_paid, one["status"] == "cancelled", one["status"] == "expired", is_paid * one["price"])
        for index, step in enumerate(steps):
            counts[index] += step
        margins[place]["EUR" if one["account"] == "elsewhere" else "USD"] += is_paid * one["price"]
        margins[place][one["cost_currency"]] -= is_paid * one["cost"]
    return {place: [*counts, {k: v for k, v in margins[place].items() if v}] for place, counts in found.items()}


def told(lines: Sequence[usage.Line], by: Sequence[str]) -> dict[tuple[Any, ...], list[Any]]:
    return {
        tuple(line.place[name] for name in by): [
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
        "upstream": st.sampled_from(["one", "two"]),
        "cost_currency": st.sampled_from(["USD", "RUB"]),
        # Around midnight above all: that is where days could be told apart wrongly.
        "opened_at": st.tuples(
            st.integers(0, 3), st.sampled_from([0.0, 0.4, 0.6, 43_200.0, DAY - 0.6, DAY - 0.001])
        ).map(lambda pair: (FIRST + pair[0]) * DAY + pair[1]),
        "is_kept": st.booleans(),
    }
)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await asyncio.to_thread(open_database, environment(database_url))
    await opened.store.run(plant)
    yield opened
    await opened.store.close()


async def check(database: Database, ones: Sequence[Mapping[str, Any]]) -> None:
    for within, by in (
        ("top", ("day", "service")),
        ("left", ("account", "upstream")),
        ("elsewhere", ()),
        ("twig", ("day",)),
    ):

        def read(tx: Tx, within: str = within, by: tuple[str, ...] = by) -> list[usage.Line]:
            return usage.report(tx, usage.Query(FIRST, FIRST + 4, by, accounts.find(tx, within)["id"]))

        assert told(await database.store.read(read), by) == recounted(ones, by, within)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(one_activation, min_size=5, max_size=30), st.lists(st.sampled_from(OVER), max_size=30), st.integers(1, 9)
)
async def test_a_report_is_what_counting_again_says_at_any_time(
    database: Database, ones: list[dict[str, Any]], ends: list[str], batch: int
) -> None:
    await database.store.run(lambda tx: (tx.execute("delete from usage_days"), tx.execute("delete from activations")))
    ids = [await database.store.run(add, one) for one in ones]
    await check(database, ones)
    await database.store.run(usage.roll_up, batch)
    await check(database, ones)
    # What was open ends meanwhile, and is added up later.
    for place, (one, end) in enumerate(zip(ones, ends, strict=False)):
        if one["status"] == "waiting" and not one["is_kept"] and end in ("cancelled", "expired"):
            ones[place] = {**one, "status": end}
            await database.store.run(end_one, ids[place], end)
    while await database.store.run(usage.roll_up, batch):
        await check(database, ones)
    await check(database, ones)
    left = await database.store.read(lambda tx: tx.one("select count(*) as n from activations where counted = 0"))
    assert left is not None
    assert left["n"] == sum(one["status"] not in OVER for one in ones)


def an_activation(**more: Any) -> dict[str, Any]:
    usual = {"account": "twig", "service": "tg", "status": "finished", "price": 500_000, "cost": 200_000,
             "upstream": "one", "cost_currency": "USD", "opened_at": FIRST * DAY + 1.0}  # fmt: skip
    return {**usual, **more}


async def test_processes_that_add_up_at_once_count_everything_once(database: Database) -> None:
    ones = [an_activation(service=f"s{number % 7}") for number in range(200)]
    for one in ones:
        await database.store.run(add, one)
    counted = await asyncio.gather(*(database.store.run(usage.roll_up, 30) for _ in range(10)))
    while more := await database.store.run(usage.roll_up, 30):
        counted.append(more)
    assert sum(counted) == 200
    await check(database, ones)
    rows = await database.store.read(lambda tx: tx.one("select sum(bought) as n, sum(spent) as spent from usage_days"))
    assert rows is not None
    assert (int(rows["n"]), int(rows["spent"])) == (200, 100_000_000)


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
            an_activation(),
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
        {"day": "2024-10-04", "account": "twig", **counts, "margin": {"USD": "0.30"}},
        {"day": "2024-10-05", "account": "left", "bought": 1, "delivered": 0, "cancelled": 0, "expired": 1,
         "spent": "0.00", "currency": "USD", "margin": {"USD": "0.00"}},
    ]  # fmt: skip
    assert shell.json("usage", "--account", "right", *SPAN) == []
    every = list(csv.DictReader(io.StringIO(shell.ok("usage", *SPAN, "--by", "service", "--csv"))))
    assert [(row["service"], row["currency"], row["bought"], row["margin"]) for row in every] == [
        ("tg", "EUR", "1", "0.50 EUR -0.20 USD"),
        ("tg", "USD", "3", "0.30 USD"),
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
