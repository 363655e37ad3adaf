"""What is rented out: asked once for all who wait, remembered for a minute, priced as a promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.accounts import Caller
from gateway.errors import BadCountry, NoNumbers, Unwell
from gateway.model import RentOffer
from gateway.money import Money
from gateway.rent_market import RentMarket
from gateway.rentals import RentRow
from tests.harness import config_directory, environment
from tests.scripted import STANZAS, Scripted, World


def world_of(url: str, parent: Path, gateway: str = "", pricing: str = "", routing: str = "") -> World:
    directory = config_directory(parent, STANZAS, gateway, pricing, routing)
    return World(environment(url, ONE_API_KEY="k" * 32, TWO_API_KEY="k" * 32), directory)


@pytest.fixture
async def world(tmp_path: Path, sqlite_url: str) -> AsyncIterator[World]:
    world = world_of(sqlite_url, tmp_path)
    await world.begin()
    yield world
    await world.end()


def usd(micros: int) -> Money:
    return Money(micros, "USD")


class Asked:
    """Counts what an upstream is asked, and answers as told."""

    def __init__(self, upstream: Scripted, offers: Sequence[RentOffer] | Exception | None = None) -> None:
        self.times = 0
        self.gate = asyncio.Event()
        self.gate.set()
        plain = upstream.rent_offers

        async def answer(country: int, hours: int) -> Sequence[RentOffer]:
            self.times += 1
            await self.gate.wait()
            if isinstance(offers, Exception):
                raise offers
            return await plain(country, hours) if offers is None else offers

        upstream.rent_offers = answer  # type: ignore[method-assign]


async def rows(
    world: World, hours: int = 4, country: int = 6, caller: Caller | None = None, operator: str = ""
) -> list[RentRow]:
    return list(await world.gateway.rentals.offers(caller or world.caller, country, hours, operator))


async def test_the_listed_price_is_the_cheapest_and_is_a_promise(world: World) -> None:
    assert await rows(world) == [RentRow("full", 6, 4, usd(520_000), 10)]
    live = await world.rent(world.rental(hours=4))
    assert (live.upstream, live.price_micros) == ("one", 520_000)
    world.one.buys.append("sold_out")
    with pytest.raises(NoNumbers):
        await world.rent(world.rental(hours=4))
    assert len(world.two.asked) == 0, "the other one is dearer than was listed"


async def test_who_rents_for_longer_than_asked_is_compared_by_the_whole_price(world: World) -> None:
    Asked(world.one, [RentOffer("one", "full", 6, 24, usd(300_000), 3), RentOffer("one", "full", 6, 2, usd(1), 3)])
    assert await rows(world, 3) == [RentRow("full", 6, 24, usd(390_000), 3)]
    world.one.cost = usd(12_500)
    live = await world.rent(world.rental(hours=3))
    assert (live.hours, live.upstream, world.one.asked[-1].hours) == (24, "one", 24)


async def test_an_operator_is_kept_to_where_anybody_has_it(world: World) -> None:
    offers = [
        RentOffer("one", "full", 6, 4, usd(100_000), 3, "telkomsel"),
        RentOffer("one", "full", 6, 4, usd(200_000), 2, "three"),
    ]
    Asked(world.one, offers)
    Asked(world.two, [])
    assert (await rows(world))[0].operators == ("telkomsel",)
    assert await rows(world, operator="three") == [RentRow("full", 6, 4, usd(260_000), 2, ("three",))]
    assert (await rows(world, operator="nobody"))[0].price == usd(130_000)


async def test_one_question_for_all_who_wait_and_for_a_minute(world: World) -> None:
    asked = Asked(world.one)
    asked.gate.clear()
    waiting = [asyncio.create_task(rows(world)) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    asked.gate.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert asked.times == 1
    assert all(one == found[1] for one in found[1:])
    await rows(world)
    world.watch.now += 59
    await rows(world)
    assert asked.times == 1
    await rows(world, 5)
    world.watch.now += 1
    await rows(world)
    assert asked.times == 3


@pytest.mark.parametrize("error", [Unwell("away"), RuntimeError("a defect")])
async def test_an_upstream_that_fails_is_left_out_and_soon_asked_again(world: World, error: Exception) -> None:
    asked = Asked(world.one, error)
    assert [row.price for row in await rows(world)] == [usd(624_000)]
    assert (await world.rent(world.rental(hours=4))).upstream == "two"
    assert asked.times == 1
    world.watch.now += 10
    await rows(world)
    assert asked.times == 2


async def test_an_upstream_that_takes_its_time_is_left_out(tmp_path: Path, sqlite_url: str) -> None:
    world = world_of(sqlite_url, tmp_path, "[rentals]\nquote_seconds = 0.05\n")
    await world.begin()
    Asked(world.one).gate.clear()
    assert [row.price for row in await rows(world)] == [usd(624_000)]
    await world.end()


async def test_drained_resting_and_ruled_out_upstreams_rent_nothing_out(tmp_path: Path, sqlite_url: str) -> None:
    world = world_of(sqlite_url, tmp_path, routing='[[rule]]\nservices = ["full"]\nexclude = ["one"]\n')
    await world.begin()
    assert [row.price for row in await rows(world)] == [usd(624_000)]
    world.gateway.house.market.drain({"two"})
    assert await rows(world) == []
    assert await world.gateway.rentals.countries(world.caller) == {6}
    await world.end()


async def test_demo_accounts_rent_from_nobody_real(world: World) -> None:
    demo = replace(world.caller, is_demo=True)
    assert await rows(world, caller=demo) == []
    assert await world.gateway.rentals.countries(demo) == set()


async def test_a_country_that_is_none(world: World) -> None:
    with pytest.raises(BadCountry):
        await rows(world, country=9999)
    assert await rows(world, country=22) == []


async def test_more_time_costs_what_was_said_for_a_minute(world: World) -> None:
    live = await world.rent()
    price, hours = await world.gateway.rentals.extension_price(world.caller, live.id, 1)
    assert (price, hours) == (usd(260_000), 2)
    world.one.cost = usd(150_000)
    assert (await world.gateway.rentals.extension_price(world.caller, live.id, 1))[0] == price
    world.watch.now += 61
    assert (await world.gateway.rentals.extension_price(world.caller, live.id, 1))[0] == usd(390_000)


async def test_what_is_remembered_is_bounded_by_its_rows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody with a key may ask for any number of hours: that must not fill the memory."""
    asked = Asked(world.one)
    monkeypatch.setattr("gateway.rent_market.REMEMBERED_ROWS_MAX", 8)
    market = RentMarket(world.gateway.house)
    for hours in (2, 3, 4, 5, 6, 7):
        await market.listing(world.caller, 6, hours, "")
    assert asked.times == 6
    await market.listing(world.caller, 6, 7, "")
    assert asked.times == 6, "the newest is known still"
    await market.listing(world.caller, 6, 2, "")
    assert asked.times == 7, "the oldest was forgotten"
