"""A hundred at once over one key: neither money nor the cap on open activations can be passed together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from gateway import accounts, ledger
from gateway.database import open_database
from gateway.store import Tx
from tests.harness import PATH, House, add_account, config_directory, environment, house, server

TOGETHER = 100
QUIET = "xmute"
"""A sandbox service whose numbers never get a code; 0.08 each."""


async def buy_together(client: httpx.AsyncClient, key: str, **more: str) -> Counter[str]:
    """So many purchases at the same moment; how often each answer came. Numbers handed out are all different."""
    query = {"api_key": key, "action": "getNumber", "service": QUIET, "country": "6", **more}
    answers = await asyncio.gather(*(client.get(PATH, params=query) for _ in range(TOGETHER)))
    texts = [answer.text for answer in answers]
    bought = [text for text in texts if text.startswith("ACCESS_NUMBER:")]
    assert len({text.split(":")[1] for text in bought}) == len(bought)
    assert len({text.split(":")[2] for text in bought}) == len(bought)
    return Counter(text.partition(":")[0] for text in texts)


@asynccontextmanager
async def sockets(
    tmp_path: Path, url: str, balance: str, gateway: str = ""
) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """`simroute serve` as a process, with a client that opens a connection for each request."""
    values, directory = environment(url), config_directory(tmp_path, gateway=gateway)
    database = await asyncio.to_thread(open_database, values)
    key = await add_account(database, "alice", balance)
    limits = httpx.Limits(max_connections=TOGETHER, max_keepalive_connections=0)
    with server(directory, values, tmp_path / "log") as process:
        async with httpx.AsyncClient(base_url=process.base, limits=limits, timeout=20) as client:
            yield client, key
        assert process.stop() == 0

    def state(tx: Tx) -> tuple[list[str], ledger.Balance]:
        return ledger.verify(tx), ledger.balance(tx, accounts.find(tx, "alice")["id"])

    problems, found = await database.store.read(state)
    assert problems == []
    assert found.held.micros == found.open_count * 80_000
    await database.store.close()


async def check(running: House, available: int, held: int) -> None:
    assert await running.problems() == []
    assert await running.balance() == (available, held)


async def test_money_for_ten_buys_ten(tmp_path: Path, database_url: str) -> None:
    values = environment(database_url)
    async with house(config_directory(tmp_path), values, balances={"alice": "0.80"}) as running:
        answers = await buy_together(running.client, running.keys["alice"])
        assert answers == {"ACCESS_NUMBER": 10, "NO_BALANCE": 90}
        await check(running, 0, 800_000)


async def test_money_for_ten_and_a_half_buys_ten(tmp_path: Path, sqlite_url: str) -> None:
    values = environment(sqlite_url)
    async with house(config_directory(tmp_path), values, balances={"alice": "0.84"}) as running:
        answers = await buy_together(running.client, running.keys["alice"])
        assert answers == {"ACCESS_NUMBER": 10, "NO_BALANCE": 90}
        await check(running, 40_000, 800_000)


async def test_the_cap_on_open_activations_holds(tmp_path: Path, database_url: str) -> None:
    directory = config_directory(tmp_path, gateway="[limits]\nopen_activations = 7\n")
    async with house(directory, environment(database_url)) as running:
        answers = await buy_together(running.client, running.keys["alice"])
        assert answers == {"ACCESS_NUMBER": 7, "CHANNELS_LIMIT": 93}
        await check(running, 10_000_000 - 7 * 80_000, 7 * 80_000)


async def test_one_account_does_not_use_up_anothers_money(tmp_path: Path, database_url: str) -> None:
    values = environment(database_url)
    async with house(config_directory(tmp_path), values, balances={"alice": "0.40", "bob": "0.80"}) as running:
        alice, bob = await asyncio.gather(
            *(buy_together(running.client, running.keys[name]) for name in ("alice", "bob"))
        )
        assert (alice["ACCESS_NUMBER"], bob["ACCESS_NUMBER"]) == (5, 10)
        assert await running.balance("bob") == (0, 800_000)
        await check(running, 0, 400_000)


async def test_one_order_reference_buys_once(tmp_path: Path, database_url: str) -> None:
    async with house(config_directory(tmp_path), environment(database_url)) as running:
        query = {"api_key": running.keys["alice"], "action": "getNumberV2", "service": QUIET, "country": "6"}
        answers = await asyncio.gather(
            *(running.client.get(PATH, params={**query, "orderId": "mine-1"}) for _ in range(TOGETHER))
        )
        words = Counter("bought" if "activationId" in answer.text else answer.text for answer in answers)
        assert words == {"bought": 1, "ORDER_ALREADY_EXISTS": TOGETHER - 1}
        await check(running, 10_000_000 - 80_000, 80_000)


async def test_a_number_cancelled_by_many_is_paid_back_once(tmp_path: Path, database_url: str) -> None:
    async with house(config_directory(tmp_path), environment(database_url)) as running:
        activation_id = await running.buy(QUIET)
        cancels = [running.call("setStatus", id=activation_id, status=8) for _ in range(20)]
        assert set(await asyncio.gather(*cancels)) == {"ACCESS_CANCEL"}
        await check(running, 10_000_000, 0)


async def test_money_for_ten_buys_ten_over_sockets(tmp_path: Path, database_url: str) -> None:
    async with sockets(tmp_path, database_url, "0.80") as (client, key):
        assert await buy_together(client, key) == {"ACCESS_NUMBER": 10, "NO_BALANCE": 90}


async def test_the_cap_on_open_activations_holds_over_sockets(tmp_path: Path, sqlite_url: str) -> None:
    async with sockets(tmp_path, sqlite_url, "50.00", "[limits]\nopen_activations = 7\n") as (client, key):
        assert await buy_together(client, key) == {"ACCESS_NUMBER": 7, "CHANNELS_LIMIT": 93}
