"""Which orders a repeated request finds, who may take them, and what is said of those that failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway import accounts, attempts, repeats
from gateway.database import Database, open_database
from gateway.errors import Barred, CallerError, NoNumbers, NotAllowedNow, Unavailable
from gateway.repeats import Elsewhere, Taken
from gateway.store import Tx
from tests.harness import environment

AT = 1_750_000_000.0
SINCE = AT - 10


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await asyncio.to_thread(open_database, environment(database_url))

    def fill(tx: Tx) -> None:
        for name in ("alice", "bob"):
            accounts.create(tx, name, "USD", AT, is_demo=False)
            accounts.issue_key(tx, opened.vault, name, AT)

    await opened.store.run(fill)
    yield opened
    await opened.store.close()


async def ordered(
    database: Database, served_by: str = "a", at: float = AT, status: str = "opening", product: str = "sms"
) -> int:
    """An order of alice's for `tg`, by a client of that process."""

    def insert(tx: Tx) -> int:
        return tx.insert(
            "insert into activations (account_id, key_id, service, country, operator, status, price, currency,"
            " opened_at, fingerprint, config_version, served_by, product)"
            " values (1, 1, 'tg', 6, '', :status, 100000, 'USD', :at, 'tg', '1', :by, :product) returning id",
            status=status,
            at=at,
            by=served_by,
            product=product,
        )

    return await database.store.run(insert)


async def look(
    database: Database, me: str = "b", account_id: int = 1, fingerprint: str = "tg"
) -> Taken | Elsewhere | None:
    return await database.store.run(repeats.look, account_id, fingerprint, None, me, since=SINCE, at=AT)


async def test_orders_of_the_same_request_elsewhere_are_found(database: Database) -> None:
    assert await look(database) is None
    first, second = await ordered(database, "a"), await ordered(database, "c", status="waiting")
    await ordered(database, "b")
    await ordered(database, "")  # written by an older program, which can't be asked
    await ordered(database, "a", at=SINCE - 1)
    await ordered(database, "a", status="failed")
    assert await look(database) == Elsewhere([first, second], frozenset({"a", "c"}))
    assert await look(database, account_id=2) is None
    assert await look(database, fingerprint="wa") is None


async def test_what_is_put_up_is_taken_once_and_can_be_put_up_again(database: Database) -> None:
    order = await ordered(database)
    await database.store.run(repeats.put_up, [order], "c", AT + 60)  # it is another process's
    assert await look(database) == Elsewhere([order], frozenset({"a"}))
    await database.store.run(repeats.put_up, [order], "a", AT + 60)
    assert await look(database, account_id=2) is None
    assert await look(database) == Taken(order, AT, is_over=False)
    assert await look(database, "c") == Elsewhere([order], frozenset({"b"}))
    await database.store.run(repeats.put_up, [order], "a", AT + 60)  # too late: it is that one's no more
    assert await look(database, "c") == Elsewhere([order], frozenset({"b"}))
    await database.store.run(repeats.put_up, [order], "b", AT + 60)
    assert await look(database, "b") == Taken(order, AT, is_over=False)


async def test_what_has_its_number_counts_as_told_to_who_takes_it(database: Database) -> None:
    order = await ordered(database, status="waiting")
    await database.store.run(attempts.put_up, {order: AT + 60}, (), "c")
    assert await look(database) == Elsewhere([order], frozenset({"a"}))
    await database.store.run(attempts.put_up, {order: AT + 60}, (), "a")
    assert await look(database) == Taken(order, AT, is_over=True)
    assert await look(database, "c") is None
    assert not await database.store.run(attempts.claim, order, "c")


async def test_what_is_no_longer_put_up_is_not_taken(database: Database) -> None:
    late, failed = await ordered(database), await ordered(database, product="extension")
    await database.store.run(repeats.put_up, [late], "a", AT)
    await database.store.run(repeats.put_up, [failed], "a", AT + 60)
    await database.store.run(attempts.fail_order, failed, AT, repeats.word(NoNumbers()))
    assert await look(database) is None
    row = await database.store.read(repeats.outcome, failed)
    assert row is not None
    assert (row["status"], row["failure"]) == ("failed", "no_numbers")


@pytest.mark.parametrize("error", [NoNumbers(), NotAllowedNow(), Unavailable(), Barred(AT + 0.5)])
def test_a_repeat_is_told_what_the_first_one_would_have_been(error: CallerError) -> None:
    told = repeats.failure(repeats.word(error))
    assert (type(told), vars(told)) == (type(error), vars(error))


def test_where_nothing_is_said_the_client_is_to_ask_again() -> None:
    assert isinstance(repeats.failure(None), Unavailable)
    assert isinstance(repeats.failure("of_a_later_version"), Unavailable)
