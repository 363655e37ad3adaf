"""What the loops do beside orders under way: they never take away what an order is about to have, nor forget a cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import drift
from gateway.attempts import NEVER_LISTED_SECONDS, SURELY_LATE_SECONDS, give_up_order
from gateway.errors import NoNumbers, Unavailable
from gateway.leases import AllMine
from gateway.model import LeaseState, Status
from gateway.money import Money
from tests.scripted import World, worlds


@pytest.fixture
async def world(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    world = worlds(database_url, tmp_path)()
    await world.begin()
    yield world
    await world.end()


async def fail_to_buy(world: World, one: str, two: str = "sold_out") -> None:
    world.one.buys.append(one)
    world.two.buys.append(two)
    with pytest.raises(NoNumbers):
        await world.buy(world.order(price_max="0.50"))


async def states(world: World) -> list[str]:
    rows = await world.rows("select upstream, state from attempts order by id")
    return [f"{row['upstream']} {row['state']}" for row in rows]


async def test_a_number_on_its_way_to_another_order_is_not_taken_for_a_lost_one(world: World) -> None:
    """Two orders in one place: one is in doubt and nothing was taken, the other has bought and waits for the reply."""
    world.one.buys.append("slow")
    under_way = asyncio.create_task(world.buy())
    await world.one.has_sold.wait()
    await fail_to_buy(world, "doubt")
    await world.gateway.settling.settle()
    assert await states(world) == ["one pending", "one in_doubt", "two refused"]
    world.one.gate.set()
    live = await under_way
    await world.gateway.settling.settle()
    assert live.status is Status.WAITING
    assert world.one.sold[live.reference].state is LeaseState.OPEN
    world.watch.now += SURELY_LATE_SECONDS + 1
    await world.gateway.settling.settle()
    assert await states(world) == ["one leased", "one gone", "two refused"]
    assert world.one.sold[live.reference].state is LeaseState.OPEN


async def test_an_order_without_time_to_ask_anybody_holds_nothing_up(world: World) -> None:
    """A process stood still, or its clock was put right: the first attempt is written, and nobody is asked."""
    await fail_to_buy(world, "doubt")
    with pytest.raises(NoNumbers):
        await world.buy(replace(world.order(), started_at=world.watch.now - 60.0))
    assert await states(world) == ["one in_doubt", "two refused", "two refused"]
    assert (len(world.one.asked), len(world.two.asked)) == (1, 1)
    world.watch.now += SURELY_LATE_SECONDS + 1
    await world.gateway.settling.settle()
    assert await states(world) == ["one gone", "two refused", "two refused"]
    await world.check()


async def test_an_order_that_looks_for_its_own_number_is_not_interfered_with(world: World) -> None:
    """The loop runs between the lost reply and the look-up in the upstream's list."""
    world.one.before_find = world.gateway.settling.settle
    world.one.buys.append("doubt_taken")
    live = await world.buy()
    await world.gateway.settling.settle()
    assert await states(world) == ["one leased"]
    assert world.one.sold[live.reference].state is LeaseState.OPEN
    await world.check()


async def test_a_lost_number_that_appears_late_is_given_back(world: World) -> None:
    await fail_to_buy(world, "doubt_hidden")
    await world.gateway.settling.settle()
    assert await states(world) == ["one in_doubt", "two refused"]
    world.one.show_hidden()
    await world.gateway.settling.settle()
    assert await states(world) == ["one cancelled", "two refused"]
    assert not any(sold.is_paid for sold in world.one.sold.values())
    assert (await world.balance()).available.micros == world.deposited


async def test_an_orphan_that_cannot_be_given_back_is_the_houses_loss_beside_the_sale(world: World) -> None:
    """The order it was bought for went on to another upstream and was paid: one activation, two costs, both right."""
    world.one.buys.append("dearer")
    world.one.closes.append("unwell")
    live = await world.buy(world.order(price_max="0.50"))
    await world.gateway.purchases.drain()
    world.one.sms("one-1")
    world.two.sms(live.reference)
    await world.poll()
    await world.gateway.activations.finish(world.caller, live.id)
    world.watch.now += NEVER_LISTED_SECONDS + 1
    await asyncio.gather(world.gateway.settling.settle(), world.gateway.settling.settle())
    rows = await world.rows("select kind, debit from ledger where debit like 'upstream:%' order by id")
    assert [tuple(row.values()) for row in rows] == [("cost", "upstream:two:float"), ("loss", "upstream:one:float")]
    assert await states(world) == ["one gone", "two leased"]
    await world.check()


async def test_a_lease_that_comes_after_its_order_was_given_up_is_given_back(world: World) -> None:
    world.one.buys.append("slow")
    under_way = asyncio.create_task(world.buy())
    await world.one.has_sold.wait()
    (row,) = await world.rows("select id from activations")
    await world.store.run(give_up_order, row["id"], world.watch())
    world.one.gate.set()
    with pytest.raises(NoNumbers):
        await under_way
    await world.gateway.settling.settle()
    assert await states(world) == ["one cancelled"]
    assert not world.one.sold["one-1"].is_paid
    await world.check()


@pytest.mark.parametrize("is_committed", [False, True])
async def test_a_late_lease_is_not_forgotten_when_the_database_goes(world: World, is_committed: bool) -> None:
    world.one.buys.append("slow")
    under_way = asyncio.create_task(world.buy())
    await world.one.has_sold.wait()
    (row,) = await world.rows("select id from activations")
    await world.store.run(give_up_order, row["id"], world.watch())
    world.store.fail(1, Unavailable, committed=is_committed)  # after the lease could not be attached
    world.one.gate.set()
    with pytest.raises(Unavailable):
        await under_way
    await world.gateway.settling.settle()
    assert await states(world) == ["one cancelled"]
    assert not world.one.sold["one-1"].is_paid
    await world.check()


async def test_an_attempt_that_an_older_version_never_ended_is_settled_after_a_start(world: World) -> None:
    await fail_to_buy(world, "doubt")
    await world.store.run(lambda tx: tx.execute("update attempts set state = 'pending' where upstream = 'one'"))
    await world.boot()
    assert await states(world) == ["one pending", "two refused"]  # it may be under way in another process
    world.watch.now += SURELY_LATE_SECONDS + 1
    await world.boot()
    assert await states(world) == ["one in_doubt", "two refused"]
    await world.gateway.settling.settle()
    assert await states(world) == ["one gone", "two refused"]
    await world.check()


async def test_a_lease_handed_out_twice_is_refused_and_not_given_back(world: World) -> None:
    live = await world.buy()
    await fail_to_buy(world, "again")
    await world.gateway.settling.settle()
    assert await states(world) == ["one leased", "one refused", "two refused"]
    assert world.one.sold[live.reference].state is LeaseState.OPEN
    await world.check()


async def test_a_late_message_that_cannot_be_read_is_asked_for_again(world: World) -> None:
    live = await world.buy()
    world.one.closes.extend(["too_early", "sms"])
    await world.gateway.activations.cancel(world.caller, live.id)
    world.watch.now += 30
    world.one.is_readable = False
    await world.gateway.activations.close_upstream()
    world.one.is_readable = True
    assert await world.rows("select id from messages") == []
    world.watch.now += 30
    await world.gateway.activations.close_upstream()
    rows = await world.rows("select kind, amount from ledger where kind in ('cost', 'loss')")
    assert [tuple(row.values()) for row in rows] == [("loss", 100_000)]
    assert live.status is Status.CANCELLED
    assert live.messages == ()
    await world.check()


async def test_a_late_message_after_another_upstreams_orphan_is_booked_too(world: World) -> None:
    """The loss of an orphan belongs to no activation, so it does not hide that of the activation itself."""
    world.one.buys.append("dearer")
    world.one.closes.append("unwell")
    live = await world.buy(world.order(price_max="0.50"))
    await world.gateway.purchases.drain()
    world.one.sms("one-1")
    world.two.closes.append("too_early")
    await world.gateway.activations.cancel(world.caller, live.id)
    world.two.is_well = False
    world.watch.now += NEVER_LISTED_SECONDS + 1
    await world.gateway.settling.settle()
    world.two.is_well = True
    world.two.sms(live.reference)
    await world.gateway.activations.close_upstream()
    rows = await world.rows("select debit from ledger where kind = 'loss' order by id")
    assert [row["debit"] for row in rows] == ["upstream:one:float", "upstream:two:float"]
    await world.check()


async def test_too_much_in_doubt_rests_the_upstream(tmp_path: Path, sqlite_url: str) -> None:
    """`in_doubt_exposure` bounds what lost replies may cost; orders elsewhere go on."""
    world = worlds(sqlite_url, tmp_path, '[activations]\nin_doubt_exposure = "0.05"\n')()
    await world.begin()
    await fail_to_buy(world, "doubt")
    await world.gateway.settling.settle()
    assert world.gateway.house.market.overexposed == {"one"}
    live = await world.buy()
    assert live.upstream == "two"
    world.watch.now += SURELY_LATE_SECONDS + 1
    await world.gateway.settling.settle()
    assert world.gateway.house.market.drained == frozenset()
    await world.end()


async def test_the_operator_of_a_number_survives_a_restart(world: World) -> None:
    live = await world.buy()
    named = world.gateway.house.live.get(live.id)
    assert named is not None
    await world.boot()
    recalled = world.gateway.house.live.get(live.id)
    assert recalled is not None
    assert (recalled.operator, recalled.number) == (named.operator, named.number)


@pytest.mark.parametrize(
    ("taken", "words"),
    [(0, "has not changed: nothing was taken"), (120_000, "fell by 0.12 USD more than is booked: perhaps taken")],
)
async def test_without_a_list_the_balance_says_what_came_of_a_lost_purchase(
    world: World, taken: int, words: str
) -> None:
    await world.store.run(drift.note_balance, "two", Money(5_000_000, "USD"), world.watch() - 60)
    world.one.buys.append("sold_out")
    world.two.buys.append("doubt")
    with pytest.raises(NoNumbers):
        await world.buy(world.order(price_max="0.50"))
    await world.store.run(drift.note_balance, "two", Money(5_000_000 - taken, "USD"), world.watch() + 300)
    world.watch.now += NEVER_LISTED_SECONDS + 1
    await world.gateway.settling.settle()
    (row,) = await world.rows("select reason from attempts where upstream = 'two'")
    assert row["reason"] == f"never seen upstream; its balance {words}"


async def test_where_no_balance_is_known_that_is_said(world: World) -> None:
    world.one.buys.append("sold_out")
    world.two.buys.append("doubt")
    with pytest.raises(NoNumbers):
        await world.buy(world.order(price_max="0.50"))
    world.watch.now += NEVER_LISTED_SECONDS + 1
    await world.gateway.settling.settle()
    (row,) = await world.rows("select reason from attempts where upstream = 'two'")
    assert row["reason"] == "never seen upstream; no balance tells"


async def test_what_settling_and_deleting_see_to_is_not_done_a_second_time_beside_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, seen = world.gateway.worker, list[str]()

    class Elsewhere(AllMine):
        def holds(self, _name: str) -> bool:
            return False

    def noted(name: str) -> Callable[[], Awaitable[float]]:
        async def note() -> float:
            seen.append(name)
            return 60.0

        return note

    monkeypatch.setattr(world.gateway.settling, "watch", noted("watch"))
    monkeypatch.setattr(worker._keeper, "forget", noted("forget"))
    await worker._watch()
    await worker._forget()
    assert seen == []
    worker._leases = Elsewhere()
    await worker._watch()
    await worker._forget()
    assert seen == ["watch", "forget"]
