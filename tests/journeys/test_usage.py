"""Usage of a gateway that sells: what a report says is what the ledger says, whatever became of the orders."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway import usage
from gateway.errors import NoNumbers
from gateway.usage import Line, Query
from tests.scripted import START, World, worlds

TODAY = int(START // usage.DAY_SECONDS)


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    made = worlds(database_url, tmp_path)()
    await made.begin("100.00")
    yield made
    await made.end()


async def total(world: World) -> Line:
    lines: list[Line] = await world.store.read(usage.report, Query(TODAY, TODAY + 7, (), world.caller.account_id))
    assert len(lines) == 1
    return lines[0]


async def sell(world: World) -> None:
    """One of each: with a code, cancelled, expired, dearer than found, refused; rentals kept, prolonged, given back."""
    gateway, caller = world.gateway, world.caller
    for _ in range(2):
        world.one.sms((await world.buy()).reference)
    world.one.buys.append("cheaper")
    world.one.sms((await world.buy()).reference)
    await world.poll()
    await gateway.activations.cancel(caller, (await world.buy()).id)
    await world.buy()
    world.one.buys.append("sold_out")
    world.two.buys.append("sold_out")
    with pytest.raises(NoNumbers):
        await world.buy(world.order(price_max="0.50"))
    rental = await world.rent()
    await world.extend(rental)
    await gateway.rentals.cancel(caller, (await world.rent()).id)
    await world.rent()


async def booked(world: World) -> tuple[int, int]:
    """What was charged, and what it cost, by the ledger."""
    rows = await world.rows(
        "select (select coalesce(sum(amount), 0) from ledger where kind = 'capture') as charged,"
        " (select coalesce(sum(amount), 0) from ledger where kind = 'cost') as cost"
    )
    return int(rows[0]["charged"]), int(rows[0]["cost"])


async def test_a_report_is_what_the_ledger_says(world: World) -> None:
    await sell(world)
    line = await total(world)
    assert (line.bought, line.delivered, line.cancelled, line.expired) == (9, 5, 2, 0)
    charged, cost = await booked(world)
    assert (line.spent, line.margin) == (charged, {"USD": charged - cost})
    await world.gateway.worker._roll_up()
    assert await total(world) == line
    await world.settle_everything()
    await world.gateway.worker._roll_up()
    assert await world.rows("select id from activations where counted = 0") == []
    line = await total(world)
    assert (line.bought, line.delivered, line.cancelled, line.expired) == (9, 6, 2, 1)
    charged, cost = await booked(world)
    assert (line.spent, line.margin) == (charged, {"USD": charged - cost})
    await world.check_settled()
