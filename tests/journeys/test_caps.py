"""Two hundred purchases at once against a cap for thirty-seven: by several processes on PostgreSQL, by one on SQLite.

A serving process keeps others out, so each process here is a whole gateway that serves nobody: the use-case, its units
of work and a sandbox upstream of its own, on a database that all of them share.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway import accounts, ledger
from gateway.app import Gateway
from gateway.database import Database, open_database
from gateway.errors import CallerError
from gateway.model import Order
from gateway.money import Money
from gateway.store import Tx
from tests.harness import config_directory, environment

QUIET = "xmute"
"""A sandbox service whose numbers never get a code; 0.08 each."""

PRICE = 80_000
TOGETHER = 200
FITS = 37
PROCESSES = 4
NAMES = ("top", "left", "right", "twig")

RULES = {
    "a cap on the only key": ("key", {"spend_day": FITS * PRICE}, "no_balance"),
    "a cap with something left over": ("key", {"spend_total": FITS * PRICE + PRICE - 1}, "no_balance"),
    "places of the only key": ("key", {"open_max": FITS}, "too_many_open"),
    "a cap on the account above": ("top", {"spend_month": FITS * PRICE}, "no_balance"),
    "places of the account above": ("top", {"open_max": FITS}, "too_many_open"),
}


async def _buy(directory: Path, values: Mapping[str, str], keys: list[str], count: int, at: float) -> list[str]:
    """So many purchases at once, by turns with each of the keys; what came of each."""
    database = open_database(values)
    gateway = Gateway(directory, values, database, lambda: at)
    callers = [await gateway.callers.caller(key) for key in keys]

    async def one(number: int) -> str:
        caller = callers[number % len(callers)]
        try:
            await gateway.purchases.open(caller, Order(QUIET, 6, fingerprint=f"{id(gateway)}:{number}"), lambda: False)
        except CallerError as error:
            return error.code
        return "ok"

    try:
        return await asyncio.gather(*map(one, range(count)))
    finally:
        await gateway.stop()


def buy(directory: Path, values: Mapping[str, str], keys: list[str], count: int, at: float) -> list[str]:
    return asyncio.run(_buy(directory, values, keys, count, at))


async def plant(database: Database, who: str, rule: Mapping[str, Any], at: float) -> list[str]:
    """A small tree with money in every account, and the rule set; the keys that buy."""

    def grow(tx: Tx) -> list[str]:
        made: dict[str, accounts.Issued] = {}
        for name, parent in zip(NAMES, (None, "top", "top", "left"), strict=True):
            account_id = accounts.create(tx, name, "USD", at, is_demo=True, parent=parent)
            ledger.deposit(tx, account_id, Money(50_000_000, "USD"), at, actor="test")
            made[name] = accounts.new_key(tx, database.vault, name, at)
        if who == "key":
            accounts.set_key_rules(tx, made["twig"].id, rule, at)
            return [made["twig"].key]
        accounts.set_rules(tx, who, rule, at)
        return [one.key for one in made.values()]

    return await database.store.run(grow)


async def check(database: Database, answers: Counter[str], refusal: str) -> None:
    assert answers == {"ok": FITS, refusal: TOGETHER - FITS}

    def read(tx: Tx) -> tuple[list[str], int, int]:
        row = tx.one("select sum(held) as held, sum(open_count) as places from balances")
        assert row is not None
        return ledger.verify(tx), int(row["held"]), int(row["places"])

    assert await database.store.read(read) == ([], FITS * PRICE, FITS)


@pytest.mark.parametrize("name", RULES)
async def test_several_processes_on_postgresql_can_not_pass_a_cap_together(
    tmp_path: Path, postgres_url: str, name: str
) -> None:
    who, rule, refusal = RULES[name]
    directory, values, at = config_directory(tmp_path), environment(postgres_url), 1_750_000_000.0
    database = await asyncio.to_thread(open_database, values)
    keys = await plant(database, who, rule, at)
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        loop = asyncio.get_running_loop()
        share = TOGETHER // PROCESSES
        work = [loop.run_in_executor(pool, buy, directory, values, keys, share, at) for _ in range(PROCESSES)]
        answers = Counter(word for words in await asyncio.gather(*work) for word in words)
    await check(database, answers, refusal)
    await database.store.close()


@pytest.mark.parametrize("name", RULES)
async def test_one_process_on_sqlite_can_not_pass_a_cap_either(tmp_path: Path, sqlite_url: str, name: str) -> None:
    who, rule, refusal = RULES[name]
    directory, values, at = config_directory(tmp_path), environment(sqlite_url), 1_750_000_000.0
    database = await asyncio.to_thread(open_database, values)
    keys = await plant(database, who, rule, at)
    answers = Counter(await _buy(directory, values, keys, TOGETHER, at))
    await check(database, answers, refusal)
    await database.store.close()
