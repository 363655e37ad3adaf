"""Whole lives in a tree with markups, through the real use-cases: random rules, prices, faults and ends.

At the end every cent is somewhere: what all accounts have is what was paid in, less what the operator sold for.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import accounts, ledger, markups
from gateway.accounts import Caller
from gateway.errors import CallerError
from gateway.ladders import Markup
from gateway.live import Live
from gateway.model import Order, Product, Status
from gateway.money import Money
from gateway.store import Tx
from tests.scripted import START, World, worlds

NAMES = ("top", "mid", "leaf")
PAID_IN = 50_000_000
BUYS = ("lease", "lease", "lease", "cheaper", "doubt", "doubt_taken", "sold_out", "dearer")


class Tree:
    """A world with a branch of three accounts in it, each with money and a key."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.keys: dict[str, str] = {}
        self.ids: dict[str, int] = {}

    async def begin(self) -> None:
        await self.world.begin("1.00")

        def grow(tx: Tx) -> None:
            for name, parent in zip(NAMES, (None, "top", "mid"), strict=True):
                self.ids[name] = accounts.create(tx, name, "USD", START, is_demo=False, parent=parent)
                ledger.deposit(tx, self.ids[name], Money(PAID_IN, "USD"), START, actor="test")
                self.keys[name] = accounts.issue_key(tx, self.world._opened.vault, name, START)

        await self.world.store.run(grow)

    async def markup(self, name: str, markup: Markup) -> None:
        await self.world.store.run(markups.put, self.ids[name], markup)
        await self.world.gateway.callers.refresh()

    async def caller(self, name: str) -> Caller:
        return await self.world.gateway.callers.caller(self.keys[name])

    async def as_(self, name: str) -> World:
        """The world as that account meets it."""
        self.world.caller = await self.caller(name)
        return self.world

    def sms(self, live: Live) -> None:
        """A code comes for it."""
        (self.world.one if live.upstream == "one" else self.world.two).sms(live.reference)

    async def available(self, name: str) -> int:
        found = await self.world._opened.store.read(ledger.balance, self.ids[name])
        return found.available.micros

    async def sold_for(self) -> int:
        rows = await self.world.rows(
            "select coalesce(sum(amount), 0) as n from ledger where credit = :sales", sales="house:sales"
        )
        return int(rows[0]["n"])

    async def check(self) -> None:
        assert await self.world.problems() == []
        rows = await self.world.rows("select sum(available + held) as n from balances where account_id > 1")
        assert int(rows[0]["n"]) == len(NAMES) * PAID_IN - await self.sold_for()


@pytest.fixture
async def tree(database_url: str, tmp_path: Path) -> AsyncIterator[Tree]:
    found = Tree(worlds(database_url, tmp_path)())
    await found.begin()
    yield found
    await found.world.settle_everything()
    await found.check()
    await found.world.end()


async def received(tree: Tree, live: Live) -> None:
    tree.sms(live)
    await tree.world.poll()
    assert live.status is Status.RECEIVED


async def test_a_price_falls_at_every_level_with_what_the_number_really_cost(tree: Tree) -> None:
    await tree.markup("top", Markup(percent_millionths=500_000))
    await tree.markup("mid", Markup(add_micros=20_000))
    world = await tree.as_("leaf")
    world.one.cost = Money(60_000, "USD")
    world.one.buys.append("cheaper")
    live = await world.buy()
    await received(tree, live)
    rows = await world.rows("select price from hold_shares where activation_id = :id order by level", id=live.id)
    top, mid, leaf = (row["price"] for row in rows)
    assert (mid, leaf) == (-(-top * 3 // 200) * 100, mid + 20_000)
    assert live.price_micros == leaf
    assert [await tree.available(name) for name in NAMES] == [PAID_IN + mid - top, PAID_IN + 20_000, PAID_IN - leaf]
    assert await tree.sold_for() == top


async def test_a_markup_changed_meanwhile_changes_nothing_of_what_is_held(tree: Tree) -> None:
    await tree.markup("top", Markup(add_micros=10_000))
    world = await tree.as_("leaf")
    live = await world.buy()
    await tree.markup("top", Markup(add_micros=90_000))
    await received(tree, live)
    assert await tree.available("top") == PAID_IN + 10_000
    assert (await (await tree.as_("leaf")).buy()).price_micros == live.price_micros + 80_000


async def test_rentals_their_extensions_and_numbers_used_again_pay_every_level(tree: Tree) -> None:
    await tree.markup("top", Markup(percent_millionths=100_000))
    await tree.markup("mid", Markup(add_micros=5_000, step_micros=10_000))
    world = await tree.as_("leaf")
    rental = await world.rent()
    assert await tree.available("top") == PAID_IN
    await world.extend(rental)
    kinds = await world.rows("select activation_id, count(*) as n from ledger where kind = 'margin' group by 1")
    assert [row["n"] for row in kinds] == [2, 2]
    before = await tree.available("mid")
    live = await world.buy()
    await received(tree, live)
    await world.gateway.activations.finish(world.caller, live.id)
    offer = await world.gateway.rentals.extra_offer(world.caller, live.id)
    order = Order("", 0, product=Product.AGAIN, parent_id=live.id, fingerprint="again")
    again = await world.gateway.rentals.open_extra(world.caller, order, lambda: False)
    assert again.price_micros == offer.price.micros
    assert offer.price.micros % 10_000 == 0
    await received(tree, again)
    assert await tree.available("mid") > before


async def test_what_comes_after_the_release_is_the_operators_loss_alone(tree: Tree) -> None:
    await tree.markup("top", Markup(add_micros=10_000))
    world = await tree.as_("leaf")
    live = await world.buy()
    world.watch.now += 200
    await world.gateway.activations.cancel(world.caller, live.id)
    tree.sms(live)
    await world.settle_everything()
    assert [await tree.available(name) for name in NAMES] == [PAID_IN] * 3
    assert await tree.sold_for() == 0


# Whatever happens

MARKUPS = st.builds(
    Markup,
    percent_millionths=st.integers(0, 2_000_000),
    add_micros=st.integers(0, 100_000),
    step_micros=st.sampled_from([100, 1_000, 50_000]),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["buy", "buy", "buy", "rent", "extend", "sms", "sms", "cancel", "markup", "cost", "wait"]),
        st.integers(0, 7),
        MARKUPS,
    ),
    max_size=25,
)


@pytest.mark.timeout(180)
@given(first=st.tuples(MARKUPS, MARKUPS), steps=STEPS)
@settings(max_examples=12, deadline=None, database=None)
def test_no_cent_is_lost_or_made_up(
    first: tuple[Markup, Markup],
    steps: list[tuple[str, int, Markup]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    asyncio.run(_play(first, steps, tmp_path_factory.mktemp("ladder")))


async def _play(first: tuple[Markup, Markup], steps: list[tuple[str, int, Markup]], directory: Path) -> None:
    tree = Tree(worlds(f"sqlite:///{directory}/origin.db", directory)())
    await tree.begin()
    for name, markup in zip(NAMES, first, strict=False):
        await tree.markup(name, markup)
    opened: list[Live] = []
    for verb, number, markup in steps:
        world = await tree.as_(NAMES[2 - number % 3])
        with suppress(CallerError):
            await _step(tree, world, verb, number, markup, opened)
        await tree.check()
    await tree.world.settle_everything()
    await tree.check()
    await tree.world.end()


async def _step(tree: Tree, world: World, verb: str, number: int, markup: Markup, opened: list[Live]) -> None:
    live = opened[number % len(opened)] if opened else None
    if verb == "buy":
        for upstream in world.upstreams:
            upstream.buys.append(BUYS[number])
        listed = await _listed(world)
        opened.append(await world.buy())
        assert listed is not None, "nothing was for sale"
        assert opened[-1].price_micros <= listed
    elif verb == "rent":
        opened.append(await world.rent())
    elif verb == "markup":
        await tree.markup(NAMES[number % 2], markup)
    elif verb == "cost":
        world.one.cost, world.two.cost = Money(number * 9_000, "USD"), Money(markup.add_micros, "USD")
    elif verb == "wait":
        world.watch.now += 100 * number
        await world.round()
    elif live is not None:
        name = next(name for name, account_id in tree.ids.items() if account_id == live.account_id)
        owner = await tree.as_(name)
        if verb == "extend" and live.is_rental:
            await owner.extend(live)
        elif verb == "sms":
            tree.sms(live)
            await owner.poll()
        elif verb == "cancel" and not live.is_rental:
            await owner.gateway.activations.cancel(owner.caller, live.id)


async def _listed(world: World) -> int | None:
    """What the caller is shown, from fresh price lists; nothing where purchases in doubt keep both upstreams out."""
    for upstream in world.upstreams:
        world.gateway.house.market.put(upstream.name, await upstream.offers())
    row = next(iter(world.gateway.house.market.listing_now(world.caller, "tg", 6)), None)
    return None if row is None else row.price.micros


async def test_many_lives_at_once(tree: Tree) -> None:
    """Every account of the branch buys, is sent codes, gives back and prolongs, all at the same time."""
    await tree.markup("top", Markup(percent_millionths=300_000))
    await tree.markup("mid", Markup(add_micros=12_345))
    callers = [await tree.caller(name) for name in NAMES]
    world, chance = tree.world, random.Random(7)
    for upstream in world.upstreams:
        world.gateway.house.market.put(upstream.name, await upstream.offers())

    async def one(number: int) -> None:
        caller = callers[number % 3]
        if number % 5 == 0:
            rental = await world.gateway.rentals.open(caller, world.rental(), lambda: False)
            order = replace(world.order(), product=Product.EXTENSION, hours=2, parent_id=rental.id)
            await world.gateway.rentals.extend(caller, order, lambda: False)
            return
        live = await world.gateway.purchases.open(caller, world.order(), lambda: False)
        if chance.random() < 0.5:
            tree.sms(live)

    await asyncio.gather(*map(one, range(30)))
    await asyncio.gather(world.poll(), *(world.gateway.worker._settle() for _ in range(2)))
    await tree.check()
    assert await tree.available("top") > PAID_IN - 30_000_000
