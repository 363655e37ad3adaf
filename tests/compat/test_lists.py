"""Price lists: made once for all who ask at the same time, anew when the market moved, and never for somebody else."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from compat._lists import Lists
from compat._reply import Call
from compat.handler_api import SmsActivate
from gateway.accounts import Caller
from gateway.errors import NoNumbers, TooManyRequests
from gateway.store import Tx
from tests.harness import config_directory, environment
from tests.wire import StillHouse, still_house

PRICING = '[default]\nfixed = 0.08\n[[rule]]\naccounts = ["bob"]\nfixed = 0.5\n'

LISTS = [
    "getPrices", "getPricesExtended", "getPricesV2", "getPricesV3", "getPricesVerification", "getNumbersStatus",
    "getTopCountriesByService", "getTopCountriesByServiceRank",
]  # fmt: skip


@pytest.fixture
async def house(tmp_path: Path, sqlite_url: str) -> AsyncIterator[StillHouse]:
    async with still_house(config_directory(tmp_path, pricing=PRICING), environment(sqlite_url)) as found:
        await found.open_account("alice", "10.00")
        await found.open_account("bob", "10.00")
        yield found


async def caller(house: StillHouse, name: str) -> Caller:
    return await house.gateway.callers.caller(house.keys[name])


def call(caller: Caller, action: str, **values: str) -> Call:
    return Call(caller, values, action, asyncio.Event().wait)  # type: ignore[arg-type] # nobody hangs up


@pytest.mark.parametrize("action", LISTS)
async def test_everybody_who_asks_at_the_same_time_gets_the_same_bytes_made_once(
    house: StillHouse, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialect, market = SmsActivate(house.gateway.front, Lists()), house.gateway.house.market
    begun, listing = [], market.listing

    def counted(*arguments: Any) -> Any:
        begun.append(arguments)
        return listing(*arguments)

    monkeypatch.setattr(market, "listing", counted)
    alice = await caller(house, "alice")
    asked = [dialect.actions[action](call(alice, action, service="tg")) for _ in range(5)]
    replies = await asyncio.gather(*asked)
    assert len({reply.body for reply in replies}) == 1
    assert len(begun) == 1
    await dialect.actions[action](call(alice, action, service="tg"))
    assert len(begun) == 1
    market.drain([])  # as an operator's switch would
    await dialect.actions[action](call(alice, action, service="tg"))
    assert len(begun) == 2


@pytest.mark.parametrize("action", LISTS)
async def test_a_list_is_the_asker_s_own(house: StillHouse, action: str) -> None:
    dialect = SmsActivate(house.gateway.front, Lists())
    replies = {
        name: (await dialect.actions[action](call(await caller(house, name), action, service="tg", country="6"))).body
        for name in ("alice", "bob")
    }
    assert (b"0.08" in replies["bob"], b"0.5" in replies["alice"]) == (False, False)
    if action != "getNumbersStatus":
        assert b"0.08" in replies["alice"]
        assert b"0.5" in replies["bob"]


@pytest.mark.parametrize("action", ["getPricesExtended", "getTopCountriesByService"])
async def test_with_and_without_maps_are_two_lists(house: StillHouse, action: str) -> None:
    dialect, alice = SmsActivate(house.gateway.front, Lists()), await caller(house, "alice")
    plain = await dialect.actions[action](call(alice, action, service="tg"))
    mapped = await dialect.actions[action](call(alice, action, service="tg", freePrice="true"))
    assert b"freePriceMap" not in plain.body
    assert b"freePriceMap" in mapped.body


async def test_a_list_that_could_not_be_made_is_told_to_all_and_tried_again() -> None:
    lists, tries = Lists(), 0

    async def fails() -> bytes:
        nonlocal tries
        tries += 1
        await asyncio.sleep(0)
        raise ValueError

    asked = [lists.get(("a",), fails) for _ in range(3)]
    assert all(isinstance(found, ValueError) for found in await asyncio.gather(*asked, return_exceptions=True))
    assert tries == 1

    async def works() -> bytes:
        return b"x"

    assert await lists.get(("a",), works) == b"x"


async def test_who_leaves_does_not_take_the_list_from_those_who_stay() -> None:
    lists, made = Lists(), asyncio.Event()

    async def slowly() -> bytes:
        await made.wait()
        return b"x"

    leaves = asyncio.ensure_future(lists.get(("a",), slowly))
    stays = asyncio.ensure_future(lists.get(("a",), slowly))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.sleep(0)
    made.set()
    assert await stays == b"x"


async def test_a_long_list_lets_others_go_on(house: StillHouse) -> None:
    """The best countries of every service: the longest list there is."""
    dialect, alice = SmsActivate(house.gateway.front, Lists()), await caller(house, "alice")
    longest, before = 0.0, time.perf_counter()
    making = asyncio.ensure_future(dialect.actions["getTopCountriesByService"](call(alice, "getTopCountriesByService")))
    while not making.done():
        await asyncio.sleep(0)
        longest, before = max(longest, time.perf_counter() - before), time.perf_counter()
    assert len(json.loads((await making).body)) > 1000
    assert longest < 1.0  # a slow machine's slice and the last join; without slices it is the whole list's time


# History


async def test_history_is_read_along_the_account_s_own_index(house: StillHouse) -> None:
    def plan(tx: Tx) -> str:
        rows = tx.all(
            "explain query plan select id from activations a where account_id = 1 and status not in ('opening')"
            " and opened_at >= 0 and opened_at <= 1 order by opened_at desc, id desc limit 50 offset 0"
        )
        return " ".join(str(dict(row)) for row in rows)

    found = await house.database.store.read(plan)
    assert "activations_by_time" in found
    assert "TEMP B-TREE" not in found


async def test_an_order_that_got_no_number_is_in_no_history(house: StillHouse) -> None:
    dialect, alice = SmsActivate(house.gateway.front, Lists()), await caller(house, "alice")
    for service in ("xnone", "tg"):
        with suppress(NoNumbers):
            await dialect.actions["getNumber"](call(alice, "getNumber", service=service, country="6"))
    reply = await dialect.actions["getHistory"](call(alice, "getHistory"))
    assert len(json.loads(reply.body)) == 1


@pytest.mark.parametrize("action", ["getHistory", "getBalance", "getWebhook"])
async def test_a_key_s_limit_of_reads_holds_for_what_the_database_is_asked(house: StillHouse, action: str) -> None:
    alice, dialect = await caller(house, "alice"), SmsActivate(house.gateway.front, Lists())
    asked = call(alice, action)
    await dialect.actions[action](asked)
    asked.is_within = False
    with pytest.raises(TooManyRequests):
        await dialect.actions[action](asked)
