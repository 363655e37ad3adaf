"""A number an account was handed for a service does not come to it again, and neither does one it excluded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import handed
from gateway.errors import NoNumbers
from gateway.model import LeaseState, Product
from tests.scripted import World, worlds

NUMBER = "628001112233"
DAY = 86_400


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    made = worlds(database_url, tmp_path, "[limits]\nnumber_memory_days = 3\n")()
    await made.begin()
    yield made
    await made.end()


async def buy_and_cancel(world: World) -> str:
    live = await world.buy()
    await world.gateway.activations.cancel(world.caller, live.id)
    return live.number


async def states(world: World) -> list[str]:
    return [f"{row['upstream']} {row['state']}" for row in await world.rows("select * from attempts order by id")]


async def test_a_number_that_comes_again_goes_back_and_the_next_offer_is_tried(world: World) -> None:
    world.one.numbers.extend([NUMBER, NUMBER])
    assert await buy_and_cancel(world) == NUMBER
    live = await world.buy(world.order(price_max="0.50"))
    assert (live.upstream, live.number) == ("two", "628100000001")
    await world.gateway.purchases.drain()
    assert await states(world) == ["one leased", "one cancelled", "two leased"]
    assert world.one.sold["one-2"].state is LeaseState.CANCELLED
    await world.check()


async def test_an_upstream_with_one_number_only_is_asked_once_an_order(world: World) -> None:
    world.one.numbers.extend([NUMBER] * 3)
    world.two.numbers.extend([NUMBER] * 3)
    await buy_and_cancel(world)
    with pytest.raises(NoNumbers):
        await world.buy(world.order(price_max="0.50"))
    assert (len(world.one.asked), len(world.two.asked)) == (2, 1)
    await world.settle_everything()
    await world.check_settled()
    assert (await world.balance()).available.micros == world.deposited


async def test_two_orders_at_once_do_not_both_get_it(world: World) -> None:
    world.one.numbers.extend([NUMBER, NUMBER])
    lives = await asyncio.gather(*(world.buy(world.order(price_max="0.50")) for _ in range(2)))
    assert sorted(live.number for live in lives) == [NUMBER, "628100000001"]
    await world.check()


async def test_it_comes_again_for_another_service_and_when_the_time_is_over(world: World) -> None:
    world.one.numbers.extend([NUMBER] * 3)
    await buy_and_cancel(world)
    rental = await world.rent()
    assert rental.number == NUMBER
    world.watch.now += 3 * DAY - 1
    with pytest.raises(NoNumbers):
        await world.buy()
    world.watch.now += 1
    world.one.numbers.append(NUMBER)
    assert await buy_and_cancel(world) == NUMBER
    # Handed over anew, it is remembered anew.
    world.watch.now += 2 * DAY
    world.one.numbers.append(NUMBER)
    with pytest.raises(NoNumbers):
        await world.buy()


async def test_a_lease_that_is_ours_already_is_not_given_back_for_its_number(world: World) -> None:
    live = await world.buy()
    world.one.buys.append("again")
    with pytest.raises(NoNumbers):
        await world.buy()
    await world.gateway.purchases.drain()
    assert world.one.sold[live.reference].state is LeaseState.OPEN
    await world.check()


async def test_a_lease_we_have_is_not_given_back_for_its_price(world: World) -> None:
    """A rental costs more than a number may: turned down, it is still the rental of whoever has it."""
    rental = await world.rent()
    world.one.buys.append("again")
    with pytest.raises(NoNumbers):
        await world.buy()
    await world.gateway.purchases.drain()
    await world.gateway.settling.settle()
    assert world.one.sold[rental.reference].state is LeaseState.OPEN
    assert await states(world) == ["one leased", "one refused"]
    await world.check()


async def test_a_number_asked_for_again_on_purpose_is_handed_over(world: World) -> None:
    live = await world.buy()
    world.one.sms(live.reference)
    await world.poll()
    await world.gateway.activations.finish(world.caller, live.id)
    order = replace(world.order(), product=Product.AGAIN, parent_id=live.id)
    again = await world.gateway.rentals.open_extra(world.caller, order, lambda: False)
    assert (again.number, again.id != live.id) == (live.number, True)


async def test_a_number_the_caller_excluded_goes_back_too(world: World) -> None:
    world.one.numbers.append("628551112233")
    live = await world.buy(replace(world.order(price_max="0.50"), phone_exceptions=("62855", "62899")))
    assert live.upstream == "two"
    await world.gateway.purchases.drain()
    assert await states(world) == ["one cancelled", "two leased"]
    await world.check()


async def test_what_is_kept_are_digests_and_not_for_longer_than_needed(world: World) -> None:
    number = await buy_and_cancel(world)
    rows = await world.rows("select * from handed_numbers")
    assert len(rows) == 1
    assert number not in str(rows)
    await world.store.run(handed.forget, world.watch())
    assert len(await world.rows("select * from handed_numbers")) == 1
    await world.store.run(handed.forget, world.watch() + 1)
    assert await world.rows("select * from handed_numbers") == []


async def test_nought_days_is_no_memory(sqlite_url: str, tmp_path: Path) -> None:
    world = worlds(sqlite_url, tmp_path, "[limits]\nnumber_memory_days = 0\n")()
    await world.begin()
    world.one.numbers.extend([NUMBER, NUMBER])
    assert [await buy_and_cancel(world), await buy_and_cancel(world)] == [NUMBER, NUMBER]
    assert await world.rows("select * from handed_numbers") == []
    await world.end()


async def test_numbers_of_our_own_come_again_when_their_cool_down_says(world: World) -> None:
    world.one.is_kept_by_us = True  # type: ignore[attr-defined]
    world.one.numbers.extend([NUMBER, NUMBER])
    assert [await buy_and_cancel(world), await buy_and_cancel(world)] == [NUMBER, NUMBER]
    # Another upstream that has it is none of ours.
    world.one.buys.append("sold_out")
    world.two.numbers.append(NUMBER)
    with pytest.raises(NoNumbers):
        await world.buy(world.order(price_max="0.50"))
