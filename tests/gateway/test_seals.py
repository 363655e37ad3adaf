"""What was sealed can't be altered unnoticed, and nothing is sealed that could still change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from gateway import accounts, audit, ledger, seals
from gateway.database import Database, open_database
from gateway.money import Money
from gateway.seals import Sealer
from gateway.store import Conflict, Tx
from tests.harness import environment

AT = 1_750_000_000.0


@pytest.fixture
def values(database_url: str) -> dict[str, str]:
    return environment(database_url)


@pytest.fixture
async def database(values: dict[str, str]) -> AsyncIterator[Database]:
    opened = await asyncio.to_thread(open_database, values)
    await opened.store.run(accounts.create, "alice", "USD", AT, is_demo=False)
    yield opened
    await opened.store.close()


async def deposit(database: Database, times: int) -> None:
    def pay(tx: Tx) -> None:
        for number in range(times):
            ledger.deposit(tx, 1, Money(1_000 + number, "USD"), AT + number, actor="test", note=f"n° {number}")

    await database.store.run(pay)


async def edit(database: Database, sql: str, **values: object) -> None:
    assert await database.store.run(lambda tx: tx.execute(sql, **values)) >= 1


async def problems(database: Database) -> list[str]:
    return await database.store.read(lambda tx: list(seals.verify(tx, database.vault)))


async def sealed(database: Database) -> Sealer:
    sealer = Sealer(database.store, database.vault)
    await sealer.round(AT)
    await sealer.round(AT)
    return sealer


async def test_rows_are_sealed_in_batches_that_follow_each_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "BATCH_ROWS", 4)
    await deposit(database, 10)
    await sealed(database)
    spans = await database.store.read(
        lambda tx: [(row["first_id"], row["last_id"], row["row_count"]) for row in tx.all("select * from seals")]
    )
    assert spans == [(1, 4, 4), (5, 8, 4), (9, 10, 2)]
    assert await problems(database) == []


async def test_what_comes_later_hangs_on_what_was_before(database: Database) -> None:
    await deposit(database, 3)
    sealer = await sealed(database)
    await deposit(database, 2)
    await sealer.round(AT)
    await sealer.round(AT)
    head = await database.store.read(seals.head, "ledger")
    assert head is not None
    assert head.last_id == 5
    assert await problems(database) == []


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("update ledger set amount = amount + 1 where id = 2", "ledger: rows 1 to 6 are not what was sealed"),
        ("update ledger set at = at - 86400 where id = 6", "ledger: rows 1 to 6 are not what was sealed"),
        ("update ledger set note = '' where id = 1", "ledger: rows 1 to 6 are not what was sealed"),
        ("delete from ledger where id = 3", "ledger: rows 1 to 6 were 6 when they were sealed, now they are not"),
        ("update audit set subject = 'account:9' where id = 1", "audit: rows 1 to 1 are not what was sealed"),
    ],
)
async def test_a_row_altered_afterwards_is_named(database: Database, sql: str, sentence: str) -> None:
    await deposit(database, 6)
    await database.store.run(audit.note, AT, "cli", "account.create", "account:1", account_id=1, name="alice")
    await sealed(database)
    assert await problems(database) == []
    await edit(database, sql)
    assert await problems(database) == [sentence]


async def test_a_row_put_in_between_is_seen(database: Database) -> None:
    await deposit(database, 3)
    await edit(database, "delete from ledger where id = 2")
    await sealed(database)
    assert await problems(database) == []
    await edit(
        database,
        "insert into ledger (id, at, kind, debit, credit, amount, currency, actor)"
        " values (2, 1, 'deposit', :debit, :credit, 5, 'USD', 'nobody')",
        debit="house:deposits",
        credit=ledger.available(1),
    )
    assert await problems(database) == ["ledger: rows 1 to 3 were 2 when they were sealed, now they are not"]


async def test_a_seal_can_not_be_made_anew_without_the_key(
    database: Database, database_url: str, values: dict[str, str]
) -> None:
    """Somebody who edits a row and seals it again with a key of his own is found out, and so is all that follows."""
    await deposit(database, 3)
    sealer = await sealed(database)
    await deposit(database, 3)
    await sealer.round(AT)
    await sealer.round(AT)
    others = environment(database_url, DATA_ENCRYPTION_KEYS=values["DATA_ENCRYPTION_KEYS"])
    stranger = await asyncio.to_thread(open_database, others)
    await edit(database, "update ledger set amount = 77 where id = 1")
    await edit(database, "delete from seals")
    again = Sealer(stranger.store, stranger.vault)
    await again.round(AT)
    await again.round(AT)
    await stranger.store.close()
    assert await problems(database) == ["ledger: rows 1 to 6 are not what was sealed"]


async def test_a_seal_taken_out_is_missed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seals, "BATCH_ROWS", 2)
    await deposit(database, 6)
    await sealed(database)
    await edit(database, "delete from seals where first_id = 3")
    assert "ledger: the seal for the rows from 3 on is gone" in await problems(database)


async def test_two_processes_do_not_seal_the_same_rows_twice(database: Database) -> None:
    await deposit(database, 3)
    assert await database.store.run(seals.seal, database.vault, "ledger", 3, AT) == 3
    assert await database.store.run(seals.seal, database.vault, "ledger", 3, AT) == 0

    def seal_again(tx: Tx) -> None:
        tx.insert(
            "insert into seals (chain, first_id, last_id, row_count, digest, sealed_at)"
            " values ('ledger', 1, 3, 3, 'x', 1) returning id"
        )

    with pytest.raises(Conflict):
        await database.store.run(seal_again)


async def test_a_row_whose_transaction_is_still_open_is_waited_for(database: Database) -> None:
    """On PostgreSQL a lower id may be committed after a higher one; SQLite has one writer."""
    if database.store.dialect == "sqlite":
        pytest.skip("SQLite has one writer")
    insert = (  # by a connection of its own, so in that driver's words
        "insert into ledger (at, kind, debit, credit, amount, currency, actor)"
        " values (1, 'topup', 'house:topups', 'upstream:x:float', 5, 'USD', 'test')"
    )
    late = await psycopg.AsyncConnection.connect(database.url)
    await late.execute(insert)
    await deposit(database, 3)
    sealer = Sealer(database.store, database.vault)
    for _ in range(3):
        assert await sealer.round(AT) == 0
    await late.commit()
    await late.close()
    assert await sealer.round(AT) == 4 or await sealer.round(AT) == 4
    assert await problems(database) == []
