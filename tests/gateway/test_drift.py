"""What an upstream's balance says against what is booked there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway import accounts, drift, ledger
from gateway.database import Database, open_database
from gateway.money import Money
from gateway.store import Tx
from tests.harness import environment

DAY = 1_750_032_000.0
"""A midnight, UTC."""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await asyncio.to_thread(open_database, environment(database_url))
    await opened.store.run(accounts.create, "alice", "USD", DAY, is_demo=False)
    await opened.store.run(accounts.issue_key, opened.vault, "alice", DAY)
    await opened.store.run(ledger.deposit, 1, Money(9_000_000, "USD"), DAY - 9, actor="cli")
    yield opened
    await opened.store.close()


def usd(micros: int) -> Money:
    return Money(micros, "USD")


def _sale(tx: Tx, number: int, opened_at: float, cost: int) -> int:
    activation_id = tx.insert(
        "insert into activations (account_id, key_id, service, country, operator, status, price, currency,"
        " opened_at, fingerprint, config_version, upstream, reference, cost, cost_currency)"
        " values (1, 1, 'tg', 6, '', 'waiting', 100000, 'USD', :at, :print, '1', 'one', :print, :cost, 'USD')"
        " returning id",
        at=opened_at,
        print=str(number),
        cost=cost,
    )
    ledger.hold(tx, 1, activation_id, usd(100_000), opened_at, open_max=99, actor="key:1")
    return activation_id


async def found(database: Database) -> list[drift.Drift]:
    return await database.store.read(drift.days, DAY, DAY + drift.DAY_SECONDS)


async def test_a_day_that_adds_up_has_no_drift(database: Database) -> None:
    """One sold, one still open at the end, one given back, a top-up: the balance tells the same."""

    def live(tx: Tx) -> None:
        drift.note_balance(tx, "one", usd(10_000_000), DAY - 60)
        sold, _open, cancelled = (_sale(tx, number, DAY + 60, cost) for number, cost in enumerate((50_000, 7_000, 900)))
        ledger.capture(tx, sold, usd(50_000), "one", DAY + 90, actor="delivery")
        ledger.release(tx, cancelled, DAY + 95, actor="activation")
        ledger.top_up(tx, "one", usd(2_000_000), DAY + 100, actor="cli")
        drift.note_balance(tx, "one", usd(10_000_000 - 50_000 - 7_000 + 2_000_000), DAY + 3600)

    await database.store.run(live)
    (row,) = await found(database)
    assert (row.upstream, row.day, row.fell_by, row.topped_up) == ("one", "2025-06-16", -1_943_000, 2_000_000)
    assert (row.booked, row.open_change, row.drift) == (50_000, 7_000, 0)


async def test_money_that_went_unseen_is_drift(database: Database) -> None:
    def live(tx: Tx) -> None:
        drift.note_balance(tx, "one", usd(10_000_000), DAY + 1)
        drift.note_balance(tx, "one", usd(9_990_000), DAY + 2)

    await database.store.run(live)
    assert [row.drift for row in await found(database)] == [10_000]


async def test_a_balance_is_written_down_when_it_is_news(database: Database) -> None:
    async def note(micros: int, at: float) -> bool:
        return await database.store.run(drift.note_balance, "one", usd(micros), at)

    assert await note(5, DAY)
    assert not await note(5, DAY + 60)
    assert await note(4, DAY + 120)
    assert await note(4, DAY + 120 + drift.KEPT_AT_LEAST_SECONDS)


async def test_one_balance_says_nothing(database: Database) -> None:
    await database.store.run(drift.note_balance, "one", usd(5), DAY + 5)
    assert await found(database) == []
