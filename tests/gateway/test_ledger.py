"""Money that moves: every path of a hold, and what `verify` says when somebody edits a row."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway import accounts, ledger
from gateway.database import open_database
from gateway.errors import NoBalance, TooManyOpen
from gateway.money import Money
from gateway.store import Store, Tx
from tests.harness import environment

AT = 1_750_000_000.0
COST = Money(60_000, "RUB")


def usd(micros: int) -> Money:
    return Money(micros, "USD")


@dataclass
class Books:
    """An account with ten dollars, and activations in any state."""

    store: Store
    account: int = 0
    key: int = 0
    fingerprints: itertools.count[int] = field(default_factory=itertools.count)

    async def run(self, unit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self.store.run(unit, *args, **kwargs)

    async def edit(self, sql: str, **values: object) -> None:
        """What somebody with a database client would do."""
        assert await self.store.run(lambda tx: tx.execute(sql, **values)) >= 1

    async def order(self, micros: int = 100_000, *, open_max: int = 1000) -> int:
        """An activation `opening`, with its hold; its id."""
        return int(await self.store.run(self._order, micros, open_max))

    def _order(self, tx: Tx, micros: int, open_max: int) -> int:
        activation_id = tx.insert(
            "insert into activations (account_id, key_id, service, country, operator, status, price, currency,"
            " opened_at, fingerprint, config_version)"
            " values (:account, :key, 'tg', 6, '', 'opening', :price, 'USD', :at, :print, '1') returning id",
            account=self.account, key=self.key, price=micros, at=AT, print=str(next(self.fingerprints)),
        )  # fmt: skip
        ledger.hold(tx, self.account, activation_id, usd(micros), AT, open_max=open_max, actor="test")
        return activation_id

    async def move(self, activation_id: int, status: str, *, is_over: bool = False) -> None:
        await self.edit(
            "update activations set status = :status, ended_at = :at where id = :id",
            status=status,
            at=AT if is_over else None,
            id=activation_id,
        )

    async def capture(self, activation_id: int) -> bool:
        """As a delivery does it."""
        done = await self.run(ledger.capture, activation_id, COST, "one", AT, actor="test")
        await self.edit("update activations set cost = 60000, cost_currency = 'RUB' where id = :id", id=activation_id)
        await self.move(activation_id, "received")
        return bool(done)

    async def release(self, activation_id: int) -> bool:
        """As a cancel does it."""
        done = await self.run(ledger.release, activation_id, AT, actor="test")
        await self.run(ledger.leave, self.account, activation_id)
        await self.move(activation_id, "cancelled", is_over=True)
        return bool(done)

    async def balance(self) -> tuple[int, int, int]:
        found = await self.store.read(ledger.balance, self.account)
        return found.available.micros, found.held.micros, found.open_count

    async def problems(self) -> list[str]:
        return await self.store.read(ledger.verify)


@pytest.fixture
async def books(database_url: str) -> AsyncIterator[Books]:
    database = await asyncio.to_thread(open_database, environment(database_url))
    books = Books(database.store)

    def create(tx: Tx) -> tuple[int, int]:
        account = accounts.create(tx, "alice", "USD", AT, is_demo=False)
        ledger.deposit(tx, account, usd(10_000_000), AT, actor="test", note="cash")
        accounts.issue_key(tx, database.vault, "alice", AT)
        row = tx.one("select id from api_keys")
        assert row is not None
        return account, row["id"]

    books.account, books.key = await database.store.run(create)
    yield books
    await database.store.close()


# Paths of a hold


async def test_a_hold_reserves_and_a_release_gives_back(books: Books) -> None:
    order = await books.order(100_000)
    assert await books.balance() == (9_900_000, 100_000, 1)
    assert await books.release(order)
    assert await books.balance() == (10_000_000, 0, 0)
    assert await books.problems() == []


async def test_a_capture_keeps_what_the_hold_came_down_to(books: Books) -> None:
    order = await books.order(100_000)
    await books.run(ledger.shrink, order, usd(80_000), AT, actor="test")
    await books.edit("update activations set price = 80000 where id = :id", id=order)
    assert await books.balance() == (9_920_000, 80_000, 1)
    assert await books.capture(order)
    assert await books.balance() == (9_920_000, 0, 1)
    assert await books.problems() == []


async def test_a_hold_never_grows(books: Books) -> None:
    order = await books.order(100_000)
    for price in (100_000, 100_001, 5_000_000):
        await books.run(ledger.shrink, order, usd(price), AT, actor="test")
    assert await books.balance() == (9_900_000, 100_000, 1)
    assert await books.problems() == []


@pytest.mark.parametrize("first", ["capture", "release"])
@pytest.mark.parametrize("second", ["capture", "release", "shrink"])
async def test_a_hold_is_closed_once(books: Books, first: str, second: str) -> None:
    order = await books.order(100_000)
    await getattr(books, first)(order)
    before = await books.balance()
    repeat: dict[str, Callable[[Tx], object]] = {
        "capture": lambda tx: ledger.capture(tx, order, COST, "one", AT, actor="test"),
        "release": lambda tx: ledger.release(tx, order, AT, actor="test"),
        "shrink": lambda tx: ledger.shrink(tx, order, usd(1), AT, actor="test"),
    }
    assert not await books.store.run(repeat[second])
    assert await books.balance() == before
    assert await books.problems() == []


async def test_a_hold_is_closed_once_however_many_try_together(books: Books) -> None:
    order = await books.order(100_000)
    tries = [books.run(ledger.capture, order, COST, "one", AT, actor="test") for _ in range(10)]
    tries += [books.run(ledger.release, order, AT, actor="test") for _ in range(10)]
    assert sorted(await asyncio.gather(*tries)) == [False] * 19 + [True]


async def test_only_what_is_there_can_be_held(books: Books) -> None:
    with pytest.raises(NoBalance):
        await books.order(10_000_001)
    assert await books.balance() == (10_000_000, 0, 0)
    await books.order(10_000_000)
    assert await books.balance() == (0, 10_000_000, 1)
    with pytest.raises(NoBalance):
        await books.order(1)
    assert await books.problems() == []


async def test_the_cap_on_open_activations_is_part_of_the_hold(books: Books) -> None:
    first = await books.order(open_max=2)
    await books.order(open_max=2)
    with pytest.raises(TooManyOpen):
        await books.order(open_max=2)
    await books.release(first)
    await books.order(open_max=2)
    assert (await books.balance())[2] == 2


async def test_money_for_ten_and_a_hundred_who_want_it(books: Books) -> None:
    outcomes = await asyncio.gather(*(books.order(1_000_000) for _ in range(100)), return_exceptions=True)
    assert sum(isinstance(outcome, int) for outcome in outcomes) == 10
    assert sum(isinstance(outcome, NoBalance) for outcome in outcomes) == 90
    assert await books.balance() == (0, 10_000_000, 10)
    assert await books.problems() == []


async def test_a_free_number_needs_no_money_and_leaves_no_rows(books: Books) -> None:
    order = await books.order(0)
    await books.run(ledger.capture, order, usd(0), "one", AT, actor="test")
    await books.move(order, "received")
    assert await books.balance() == (10_000_000, 0, 1)
    assert await books.problems() == []


async def test_deposits_are_positive_and_in_the_accounts_currency(books: Books) -> None:
    for money, words in ((usd(0), "above zero"), (usd(-1), "above zero"), (COST, "kept in USD")):
        with pytest.raises(ValueError, match=words):
            await books.run(ledger.deposit, books.account, money, AT, actor="test")
    with pytest.raises(KeyError):
        await books.run(ledger.deposit, 999, usd(1), AT, actor="test")
    assert await books.balance() == (10_000_000, 0, 0)


async def test_cost_and_sale_are_booked_in_their_own_currencies(books: Books) -> None:
    order = await books.order(100_000)
    await books.capture(order)
    rows = await books.store.read(
        lambda tx: [tuple(row.values() if isinstance(row, dict) else row) for row in tx.all(
            "select kind, debit, credit, amount, currency from ledger where activation_id is not null order by id"
        )]
    )  # fmt: skip
    held = ledger.held(books.account)
    assert rows == [
        ("hold", ledger.available(books.account), held, 100_000, "USD"),
        ("capture", held, "house:sales", 100_000, "USD"),
        ("cost", "upstream:one:float", "upstream:one:cost", 60_000, "RUB"),
    ]


async def test_the_database_itself_refuses_what_can_never_be(books: Books) -> None:
    order = await books.order(100_000)
    for sql in (
        "update balances set available = -1",
        "update balances set held = -1",
        "update balances set open_count = -1",
        "update holds set amount = -1 where activation_id = :id",
        "update ledger set amount = 0",
        "update ledger set credit = debit",
        "insert into holds (activation_id, account_id, amount, currency, state, opened_at)"
        " values (:id, :account, 1, 'USD', 'open', 0)",
    ):
        with pytest.raises(Exception, match=r"(?i)constraint"):
            await books.edit(sql, id=order, account=books.account)
    assert await books.problems() == []


# Tampering


async def lively(books: Books) -> tuple[int, int, int]:
    """An order under way, one that was captured and one that was released."""
    opening, captured, released = [await books.order(100_000) for _ in range(3)]
    await books.capture(captured)
    await books.release(released)
    assert await books.problems() == []
    return opening, captured, released


async def problems_after(books: Books, sql: str) -> list[str]:
    opening, captured, released = await lively(books)
    names = {"opening": opening, "captured": captured, "released": released}
    await books.edit(sql, **names, **PLACES)
    shown = "\n".join(await books.problems())
    for name, number in names.items():
        shown = shown.replace(str(number), name)
    return shown.splitlines()


PLACES = {
    "nobody": "account:77:available",
    "sales": "house:sales",
    "deposits": "house:deposits",
    "float": "upstream:one:float",
    "loss": "upstream:one:loss",
}

TAMPERED = {
    "more available": (
        "update balances set available = available + 1",
        ["balances: account:1:available (alice) shows 9800001, its ledger rows say 9800000"],
    ),
    "less held": (
        "update balances set held = held - 1",
        [
            "balances: account:1:held (alice) shows 99999, its ledger rows say 100000",
            "balances: account 1 holds 99999, its open holds sum to 100000",
        ],
    ),
    "a deposit made larger": (
        "update ledger set amount = 20000000 where kind = 'deposit'",
        ["balances: account:1:available (alice) shows 9800000, its ledger rows say 19800000"],
    ),
    "a deposit deleted": (
        "delete from ledger where kind = 'deposit'",
        ["balances: account:1:available (alice) shows 9800000, its ledger rows say -200000"],
    ),
    "a deposit in another currency": (
        "update ledger set currency = 'EUR' where kind = 'deposit'",
        [
            "balances: account:1:available (alice) shows 9800000, its ledger rows say -200000",
            "ledger: rows name account:1:available in EUR, which no account has",
        ],
    ),
    "a row for an account there is not": (
        "update ledger set credit = :nobody where kind = 'deposit'",
        [
            "balances: account:1:available (alice) shows 9800000, its ledger rows say -200000",
            "ledger: rows name account:77:available in USD, which no account has",
        ],
    ),
    "an open hold made smaller": (
        "update holds set amount = 1 where activation_id = :opening",
        [
            "balances: account 1 holds 100000, its open holds sum to 1",
            "activations: opening costs 100000, its hold is 1",
            "holds: opening is for 1, its ledger rows say 100000 reserved and 1 open",
        ],
    ),
    "a hold deleted": (
        "delete from holds where activation_id = :released",
        ["activations: released is cancelled and its hold is None, not released"],
    ),
    "one place more": (
        "update balances set open_count = 9",
        ["balances: account 1 counts 9 open activations, there are 2"],
    ),
    "a sale marked as cancelled": (
        "update activations set status = 'cancelled' where id = :captured",
        ["activations: captured is cancelled and its hold is captured, not released"],
    ),
    "a status there is not": (
        "update activations set status = 'gifted' where id = :opening",
        ["activations: opening is gifted and its hold is open, not None"],
    ),
    "a price made smaller": (
        "update activations set price = 1 where id = :captured",
        ["activations: captured costs 1, its hold is 100000"],
    ),
    "a capture deleted": (
        "delete from ledger where kind = 'capture'",
        [
            "balances: account:1:held (alice) shows 100000, its ledger rows say 200000",
            "holds: captured is captured and was closed 0 times in the ledger",
            "holds: captured is for 100000, its ledger rows say 100000 reserved and 0 captured",
        ],
    ),
    "a capture made smaller": (
        "update ledger set amount = 1 where kind = 'capture'",
        [
            "balances: account:1:held (alice) shows 100000, its ledger rows say 199999",
            "holds: captured is for 100000, its ledger rows say 100000 reserved and 1 captured",
        ],
    ),
    "a hold closed twice": (
        "insert into ledger (at, kind, debit, credit, amount, currency, activation_id, actor)"
        " values (0, 'release', :sales, :deposits, 100000, 'USD', :captured, 'x')",
        ["holds: captured is captured and was closed 2 times in the ledger"],
    ),
    "an open hold closed in the ledger": (
        "insert into ledger (at, kind, debit, credit, amount, currency, activation_id, actor)"
        " values (0, 'capture', :sales, :deposits, 100000, 'USD', :opening, 'x')",
        ["holds: opening is open and was closed 1 times in the ledger"],
    ),
    "a cost deleted": (
        "delete from ledger where kind = 'cost'",
        ["ledger: activation captured cost 60000 RUB upstream, booked is nothing"],
    ),
    "a cost made smaller": (
        "update ledger set amount = 1 where kind = 'cost'",
        ["ledger: activation captured cost 60000 RUB upstream, booked is 1 RUB"],
    ),
    "a cost booked twice": (
        "insert into ledger (at, kind, debit, credit, amount, currency, activation_id, actor)"
        " values (0, 'loss', :float, :loss, 60000, 'RUB', :captured, 'x')",
        ["ledger: activation captured was paid for upstream 2 times"],
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
async def test_verify_names_what_was_tampered_with(books: Books, name: str) -> None:
    sql, sentences = TAMPERED[name]
    assert await problems_after(books, sql) == sentences
