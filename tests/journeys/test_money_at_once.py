"""Money from several processes at once: one voucher redeemed, one deposit booked, one recharge."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor

import pytest

from gateway import accounts, deposits, ledger, recharges, vouchers
from gateway.database import Database, open_database
from gateway.errors import Unavailable
from gateway.money import Money
from gateway.store import Tx
from gateway.vouchers import VoucherError
from tests.harness import environment

AT = 1_750_000_000.0
PROCESSES = 4
TOGETHER = 100
TWO = Money(2_000_000, "USD")


async def _one(database: Database, work: str, account_id: int, code: str, number: int) -> str:
    """One try; what came of it. A database too busy to answer did nothing, so it is asked again."""
    store, vault = database.store, database.vault
    while True:
        try:
            if work == "voucher":
                await vouchers.redeem(store, vault, account_id, code, AT, actor="test")
                return "True"
            if work == "deposit":
                return str(await store.run(deposits.pay_in, account_id, TWO, "r-1", "bank", AT, "test"))
            # Clocks differ a little between processes.
            return str(await store.run(recharges.attempt, account_id, AT + number % 5))
        except VoucherError as error:
            return error.code
        except Unavailable:
            await asyncio.sleep(0.05)


async def _share(values: Mapping[str, str], work: str, account_id: int, code: str) -> list[str]:
    database = open_database(values)
    try:
        tries = [_one(database, work, account_id, code, number) for number in range(TOGETHER // PROCESSES)]
        return await asyncio.gather(*tries)
    finally:
        await database.store.close()


def share(values: Mapping[str, str], work: str, account_id: int, code: str) -> list[str]:
    return asyncio.run(_share(values, work, account_id, code))


async def plant(database: Database) -> tuple[int, str]:
    """A parent with ten dollars, its child that is recharged, and a voucher; the child's id and the code."""

    def grow(tx: Tx) -> tuple[int, str]:
        top = accounts.create(tx, "top", "USD", AT, is_demo=False)
        ledger.deposit(tx, top, Money(10_000_000, "USD"), AT, actor="test")
        child = accounts.create(tx, "child", "USD", AT, is_demo=False, parent="top")
        # So high a threshold that only the cool-down stands between one recharge and five.
        recharges.set_rule(tx, child, Money(9_000_000, "USD"), TWO, "parent", Money(9_000_000, "USD"), AT, "test")
        batch = vouchers.issue(tx, database.vault, None, 1, TWO, AT, "test")
        return child, batch.codes[0]

    return await database.store.run(grow)


REFUSED = {"voucher": "voucher_spent", "deposit": "False", "recharge": "False"}


@pytest.mark.parametrize("work", REFUSED)
async def test_several_processes_move_it_once(database_url: str, work: str) -> None:
    values = environment(database_url)
    database = await asyncio.to_thread(open_database, values)
    child, code = await plant(database)
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        loop = asyncio.get_running_loop()
        shares = [loop.run_in_executor(pool, share, values, work, child, code) for _ in range(PROCESSES)]
        answers = Counter(word for words in await asyncio.gather(*shares) for word in words)
    assert answers == {"True": 1, REFUSED[work]: TOGETHER - 1}
    assert (await database.store.read(ledger.balance, child)).available == TWO
    assert await database.store.read(ledger.verify) == []
    await database.store.close()
