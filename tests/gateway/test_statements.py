"""Statements add up to the balance, page by page, whatever moved; and they are nobody else's."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator

import pytest

from gateway import accounts, ledger, statements
from gateway.database import Database, open_database
from gateway.money import Money
from gateway.store import Tx
from tests.harness import environment

AT = 1_750_000_000.0


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await asyncio.to_thread(open_database, environment(database_url))

    def fill(tx: Tx) -> None:
        for name in ("alice", "bob"):
            accounts.create(tx, name, "USD", AT, is_demo=False)
            accounts.issue_key(tx, opened.vault, name, AT)
        ledger.deposit(tx, 2, Money(9_000_000, "USD"), AT, actor="cli")
        ledger.deposit(tx, 1, Money(5_000_000, "USD"), AT, actor="cli", note="=1+1")
        for number in range(4):
            _order(tx, number, AT + 10 + number)
        first = 100_000_001
        ledger.shrink(tx, first, Money(80_000, "USD"), AT + 20, actor="purchase")
        ledger.capture(tx, first, Money(50_000, "USD"), "one", AT + 21, actor="delivery")
        ledger.release(tx, first + 1, AT + 22, actor="activation")

    await opened.store.run(fill)
    yield opened
    await opened.store.close()


def _order(tx: Tx, number: int, at: float) -> None:
    activation_id = tx.insert(
        "insert into activations (account_id, key_id, service, country, operator, status, price, currency,"
        " opened_at, fingerprint, config_version)"
        " values (1, 1, 'tg', 6, '', 'opening', 100000, 'USD', :at, :print, '1') returning id",
        at=at,
        print=str(number),
    )
    ledger.hold(tx, 1, activation_id, Money(100_000, "USD"), at, open_max=10, actor="key:1")


async def read(database: Database, start: float, end: float, *, limit: int = 1000) -> list[statements.Movement]:
    found: list[statements.Movement] = []
    after: int | None = 0
    while after is not None:
        page = await database.store.read(statements.statement, 1, start, end, after=after, limit=limit)
        assert len(page.movements) <= limit
        if not found:
            assert page.movements[0].available - page.movements[0].amount == page.opening_available
        found += page.movements
        after = page.next_after
    return found


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_a_statement_ends_at_the_balance(database: Database, limit: int) -> None:
    movements = await read(database, 0.0, AT + 100, limit=limit)
    kinds = ["deposit", "hold", "hold", "hold", "hold", "shrink", "capture", "release"]
    assert [movement.kind for movement in movements] == kinds
    balance = await database.store.read(ledger.balance, 1)
    assert movements[-1].available == balance.available.micros == 4_720_000
    assert movements[-1].total_held == balance.held.micros == 200_000
    assert [(row.amount, row.held) for row in movements][-3:] == [(20_000, -20_000), (0, -80_000), (100_000, -100_000)]


async def test_a_period_begins_where_the_one_before_ended(database: Database) -> None:
    before = await read(database, 0.0, AT + 12)
    after = await database.store.read(statements.statement, 1, AT + 12, AT + 100)
    assert after.opening_available == before[-1].available
    assert after.opening_held == before[-1].total_held
    assert [row.id for row in before] + [row.id for row in after.movements] == [2, 3, 4, 5, 6, 7, 8, 10]


async def test_a_spreadsheet_takes_no_note_for_a_formula(database: Database) -> None:
    movements = await read(database, 0.0, AT + 100)
    rows = list(csv.DictReader(io.StringIO(statements.as_csv(movements))))
    assert rows[0]["note"] == "'=1+1"
    assert (rows[0]["amount"], rows[1]["amount"], rows[1]["held"]) == ("5.00", "-0.10", "0.10")
    assert rows[0]["at"] == "2025-06-15T15:06:40Z"


async def test_an_unknown_account_has_no_statement(database: Database) -> None:
    with pytest.raises(KeyError):
        await database.store.read(statements.statement, 99, 0.0, AT)
