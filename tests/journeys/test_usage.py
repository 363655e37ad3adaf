"""Usage of a gateway that sells: what a report says is what the ledger says, whatever became of the orders."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway import ledger, usage
from gateway.errors import NoNumbers
from gateway.ladders import Markup
from gateway.money import Money
from gateway.usage import Line, Query
from tests.journeys.test_ladder import NAMES, Tree
from tests.scripted import START, World, worlds

TODAY = int(START // usage.DAY_SECONDS)


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    made = worlds(database_url, tmp_path)()
    await made.begin("100.00")
    yield made
    await made.end()


async def total(world: World, within: int | None = None) -> Line:
    """The operator's, or an account's."""
    lines: list[Line] = await world.store.read(usage.report, Query(TODAY, TODAY + 7, (), within))
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


async def earned(tree: Tree, name: str) -> int:
    rows = await tree.world.rows(
        "select coalesce(sum(amount), 0) as n from ledger where kind = 'margin' and credit = :account",
        account=ledger.available(tree.ids[name]),
    )
    return int(rows[0]["n"])


async def check_margins(tree: Tree) -> list[tuple[int, int]]:
    """Everybody's report against the ledger; what was spent and earned, from the top down."""
    _, cost = await booked(tree.world)
    assert (await total(tree.world)).margin == {"USD": await tree.sold_for() - cost}
    found = []
    for name in NAMES:
        line = await total(tree.world, tree.ids[name])
        assert line.margin == {"USD": await earned(tree, name)}
        found.append((line.spent, line.margin["USD"]))
    return found


async def test_every_level_sees_what_it_earned_and_the_operator_what_it_sold_for(
    database_url: str, tmp_path: Path
) -> None:
    tree = Tree(worlds(database_url, tmp_path)())
    await tree.begin()
    await tree.markup("top", Markup(percent_millionths=200_000))
    await tree.markup("mid", Markup(add_micros=20_000))
    for name in NAMES:
        world = await tree.as_(name)
        tree.world.one.cost = Money(60_000, "USD")
        tree.sms(await world.buy())
        world.one.buys.append("cheaper")
        tree.sms(await world.buy())
        await world.poll()
        await world.gateway.activations.cancel(world.caller, (await world.buy()).id)
        rental = await world.rent()
        await world.extend(rental)
        await world.buy()
    before = await check_margins(tree)
    assert all(margin > 0 for _, margin in before[:2])
    assert before[2][1] == 0
    await tree.world.gateway.worker._roll_up()
    assert await check_margins(tree) == before
    await tree.world.settle_everything()
    assert await check_margins(tree) == before
    await tree.world.gateway.worker._roll_up()
    assert await tree.world.rows("select id from activations where counted = 0") == []
    assert await check_margins(tree) == before
    await tree.check()
    await tree.world.end()
