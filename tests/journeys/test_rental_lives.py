"""What becomes of rentals and of their money, on a clock of the test's: kept, given back, prolonged, lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from gateway import accounts, attempts, journal
from gateway.attempts import NEVER_LISTED_SECONDS, SURELY_LATE_SECONDS
from gateway.errors import (
    CallerError,
    CancelTooEarly,
    NoBalance,
    NoNumbers,
    NotAllowedNow,
    OrderExists,
    TooManyOpen,
    Unavailable,
    UnknownActivation,
)
from gateway.live import Live
from gateway.model import BuyOrder, Found, LeaseState, Outcome, Product, Status
from gateway.money import Money
from gateway.store import Tx
from tests.scripted import START, Counting, Died, World, worlds

COST = 200_000
PRICE = 260_000
"""Two hours at `one`, with the default markup."""


@pytest.fixture
async def world(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    world = worlds(database_url, tmp_path)()
    await world.begin()
    yield world
    await world.check()
    await world.settle_everything()
    await world.check_settled()
    await world.end()


def again(world: World, live: Live) -> Live:
    """The same activation, as the gateway that runs now has it."""
    found = world.gateway.house.live.get(live.id)
    assert found is not None
    return found


async def paid(world: World) -> tuple[int, int]:
    """What is held, and what was captured in all."""
    return (await world.balance()).held.micros, await world.captured()


# Kept and given back


async def test_it_is_kept_once_it_cannot_be_given_back(world: World) -> None:
    live = await world.rent()
    assert await paid(world) == (PRICE, 0)
    world.watch.now += 1199
    await world.round()
    assert await paid(world) == (PRICE, 0)
    world.watch.now += 1
    await world.round()
    assert await paid(world) == (0, PRICE)
    assert live.status is Status.WAITING
    await world.check()
    with pytest.raises(NotAllowedNow):
        await world.gateway.rentals.cancel(world.caller, live.id)
    await world.boot()
    live = again(world, live)
    assert live.is_kept
    world.one.sms(live.reference)
    await world.poll()
    assert (live.status, live.code) == (Status.RECEIVED, "1001")
    assert await paid(world) == (0, PRICE)
    world.watch.now = live.expires_at + 1
    await world.round()
    assert live.status is Status.FINISHED


async def test_every_message_is_shown_and_the_first_one_pays(world: World) -> None:
    live = await world.rent()
    for count in (1, 2, 3):
        world.one.sms(live.reference)
        await world.poll()
        assert (live.status, len(live.messages)) == (Status.RECEIVED, count)
        assert await paid(world) == (0, PRICE)
    with pytest.raises(NotAllowedNow):
        await world.gateway.rentals.cancel(world.caller, live.id)
    await world.boot()
    assert [shown.code for shown in again(world, live).messages] == ["1001", "1002", "1003"]


async def test_one_that_never_got_a_message_and_is_over_was_paid_all_the_same(world: World) -> None:
    """The process was away from before it could be kept until after its end."""
    live = await world.rent()
    world.watch.now = live.expires_at + 100
    await world.boot()
    await world.round()
    assert again(world, live).status is Status.FINISHED
    assert await paid(world) == (0, PRICE)


@pytest.mark.parametrize("close", ["accept", "deaf", "unwell", "too_early"])
async def test_given_back_in_time_it_costs_nothing(world: World, close: str) -> None:
    live = await world.rent()
    world.one.closes.append(close)
    world.watch.now += 600
    assert (await world.gateway.rentals.cancel(world.caller, live.id)).status is Status.CANCELLED
    assert await paid(world) == (0, 0)
    world.watch.now += 30
    await world.round()
    assert world.one.sold[live.reference].state is LeaseState.CANCELLED


async def test_where_the_upstream_keeps_it_so_does_the_caller(world: World) -> None:
    live = await world.rent()
    world.one.closes.append("never")
    with pytest.raises(NotAllowedNow):
        await world.gateway.rentals.cancel(world.caller, live.id)
    assert (live.status, await paid(world)) == (Status.WAITING, (PRICE, 0))


async def test_a_refusal_that_comes_after_the_release_is_the_houses_loss(world: World) -> None:
    live = await world.rent()
    world.one.closes.extend(["too_early", "never"])
    await world.gateway.rentals.cancel(world.caller, live.id)
    world.watch.now += 30
    await world.round()
    rows = await world.rows("select kind, amount from ledger where kind in ('cost', 'loss')")
    assert [tuple(row.values()) for row in rows] == [("loss", COST)]
    assert await paid(world) == (0, 0)


async def test_what_cancels_may_cost_is_capped_for_rentals_too(world: World) -> None:
    live = await world.rent(world.rental(hours=24))
    world.one.closes.append("unwell")
    with pytest.raises(CancelTooEarly):
        await world.gateway.rentals.cancel(world.caller, live.id)
    assert live.status is Status.WAITING


async def test_a_message_that_comes_with_the_cancel_wins(world: World) -> None:
    live = await world.rent()
    world.one.closes.append("sms")
    with pytest.raises(NotAllowedNow):
        await world.gateway.rentals.cancel(world.caller, live.id)
    assert (live.status, await paid(world)) == (Status.RECEIVED, (0, PRICE))


async def test_cancel_and_message_at_once_have_one_outcome(world: World) -> None:
    for _ in range(10):
        live = await world.rent(world.rental(hours=2))
        world.one.sms(live.reference)
        world.one.closes.append("too_early")  # so that the message does not decide it upstream
        progress = world.one.progress(live.reference)
        await asyncio.gather(
            world.gateway.activations.take(live, 1, progress),
            world.gateway.rentals.cancel(world.caller, live.id),
            return_exceptions=True,
        )
        assert live.status in (Status.RECEIVED, Status.CANCELLED)
        await world.check()
        if live.status is Status.RECEIVED:
            await world.gateway.rentals.finish(world.caller, live.id)


async def test_time_does_not_keep_what_is_being_given_back(world: World) -> None:
    live = await world.rent()
    world.watch.now += 1199

    async def late() -> None:
        world.watch.now += 5
        await world.gateway.activations.keep_rentals()

    await asyncio.gather(world.gateway.rentals.cancel(world.caller, live.id), late())
    assert (live.status, await paid(world)) == (Status.CANCELLED, (0, 0))


async def test_finished_before_a_message_it_is_paid(world: World) -> None:
    live = await world.rent()
    for _ in range(2):
        assert (await world.gateway.rentals.finish(world.caller, live.id)).status is Status.FINISHED
    assert await paid(world) == (0, PRICE)
    assert (await world.balance()).open_count == 0
    await world.round()
    assert world.one.sold[live.reference].state is LeaseState.FINISHED


@pytest.mark.parametrize(
    ("seconds", "state", "captured", "kinds"),
    [
        (600, LeaseState.CANCELLED, 0, []),
        (600, LeaseState.FINISHED, 0, ["loss"]),
        (1300, LeaseState.CANCELLED, PRICE, ["cost"]),
        (1300, LeaseState.FINISHED, PRICE, ["cost"]),
    ],
)
async def test_over_upstream_it_is_over_here(
    world: World, seconds: float, state: LeaseState, captured: int, kinds: list[str]
) -> None:
    live = await world.rent()
    world.watch.now += seconds
    await world.round()
    world.one.sold[live.reference].state = state
    await world.poll()
    assert live.status is (Status.FINISHED if captured else Status.EXPIRED)
    assert await paid(world) == (0, captured)
    rows = await world.rows("select kind from ledger where kind in ('cost', 'loss')")
    assert [row["kind"] for row in rows] == kinds
    if captured:
        world.one.sold[live.reference].state = LeaseState.FINISHED  # what was paid for is not given back there


async def test_what_is_over_upstream_is_not_kept(world: World) -> None:
    """Nobody could look until it was time to keep it."""
    live = await world.rent()
    world.one.sold[live.reference].state = LeaseState.CANCELLED
    world.watch.now += 1300
    await world.round()
    assert (live.status, await paid(world)) == (Status.EXPIRED, (0, 0))


async def test_an_upstream_that_forgets_a_rental_is_not_believed_at_once(world: World) -> None:
    live = await world.rent()
    sold = world.one.sold.pop(live.reference)
    for _ in range(10):
        await world.poll()
    assert live.status is Status.WAITING
    world.one.sold[live.reference] = sold


async def test_a_list_has_the_newest_messages_of_what_it_lists(world: World) -> None:
    first, between, last = await world.rent(), await world.buy(), await world.rent()
    vault = world.gateway.house.vault

    def fill(tx: Tx) -> None:
        for live, count in ((first, 30), (between, 25), (last, 1)):
            for number in range(count):
                tx.execute(
                    "insert into messages (activation_id, identity, round, code_sealed, text_sealed, received_at,"
                    " is_shown) values (:id, :identity, 1, :sealed, :sealed, 0, :shown)",
                    id=live.id, identity=str(number), sealed=vault.seal(str(number)), shown=int(number != 29),
                )  # fmt: skip

    await world.store.run(fill)
    account_id, opened = world.caller.account_id, []

    def codes(tx: Tx, *, of_rentals: bool) -> dict[int, list[str]]:
        with patch.object(type(vault), "open", autospec=True, side_effect=type(vault).open) as calls:
            page = journal.page(tx, vault, account_id, of_rentals=of_rentals)
        opened.append(calls.call_count)
        return {live.id: [shown.code for shown in live.messages] for live in page}

    newest = [str(number) for number in range(9, 29)]
    assert await world.store.read(codes, of_rentals=True) == {first.id: newest, last.id: ["0"]}
    assert opened == [2 + 2 * 21]
    assert (await world.store.read(codes, of_rentals=False))[between.id] == [str(number) for number in range(5, 25)]


# Buying


async def test_a_lost_reply_is_found_among_rentals_only(world: World) -> None:
    """The list shows a number of the same service that is no rental: that is not it."""
    world.one.buys.append("doubt_taken")
    live = await world.rent()
    assert live.upstream == "one"
    assert world.one.sold[live.reference].is_rental
    assert live.expires_at == world.one.sold[live.reference].ends_at


async def test_a_lost_number_is_not_taken_for_a_lost_rental(world: World) -> None:
    world.one.buys.append("doubt")
    world.two.buys.append("sold_out")
    with pytest.raises(NoNumbers):
        await world.rent()
    stray = replace(world.one.asked[-1], hours=0)
    sold = world.one._sell(stray, world.one.cost)
    world.watch.now += 60
    await world.gateway.settling.settle()
    assert sold.state is LeaseState.OPEN
    rows = await world.rows("select state from attempts order by id")
    assert rows[0]["state"] == "in_doubt"
    sold.state = LeaseState.CANCELLED


async def test_in_doubt_a_rental_blocks_rentals_and_nothing_else(world: World) -> None:
    health = world.gateway.house.health
    world.one.buys.append("doubt_hidden")
    world.two.buys.append("sold_out")
    with pytest.raises(NoNumbers):
        await world.rent(world.rental(price_max="0.50"))
    for _ in range(2):
        assert health.is_blocked("one", "full", 6, is_rental=True)
        assert not health.is_blocked("one", "full", 6)
        await world.gateway.settling.settle()
    assert (await world.rent(world.rental(price_max="0.50"))).upstream == "two"
    world.one.show_hidden()
    await world.gateway.settling.settle()
    assert not health.is_blocked("one", "full", 6, is_rental=True)
    assert not any(sold.is_paid for sold in world.one.sold.values())
    assert (await world.rent()).upstream == "one"


def list_without_goods(world: World) -> None:
    """Lists rentals from now on as SMS-Activate does: neither of what, nor since when."""
    real = world.one.find

    async def find(since: float) -> Sequence[Found]:
        rentals = [replace(one, service="", country=-1, created_at=None) for one in await real(0.0) if one.is_rental]
        return [one for one in await real(since) if not one.is_rental] + rentals

    world.one.find = find  # type: ignore[method-assign]


async def lose_a_rental(world: World, plan: str) -> None:
    world.one.buys.append(plan)
    world.two.buys.append("sold_out")
    with pytest.raises(NoNumbers):
        await world.rent(world.rental(price_max="0.50"))


async def test_a_lost_rental_in_a_list_without_goods_is_given_back(world: World) -> None:
    list_without_goods(world)
    other = await world.rent()
    await lose_a_rental(world, "doubt_taken")
    await world.gateway.settling.settle()
    assert not world.one.sold["rent:one-2"].is_paid
    assert other.status is Status.WAITING
    rows = await world.rows("select state from attempts where upstream = 'one' order by id")
    assert [row["state"] for row in rows] == ["leased", "cancelled"]


async def test_a_stranger_without_goods_is_nobodys_while_it_may_be_anybodys(world: World) -> None:
    """Two strangers; or one, and a rental under way."""
    list_without_goods(world)
    await lose_a_rental(world, "doubt_hidden")
    world.one.buys.append("slow")
    task = asyncio.ensure_future(world.rent(world.rental(hours=4)))
    world.one.has_sold.clear()
    world.gateway.house.health.set_blocks([])
    await world.one.has_sold.wait()
    await world.gateway.settling.settle()
    assert world.one.sold["rent:one-2"].is_paid
    world.one.gate.set()
    live = await task
    strays = [world.one._sell(replace(world.one.asked[0]), Money(COST, "USD")) for _ in range(2)]
    for seconds in (60, 100, 1600):
        world.watch.now += seconds
        await world.gateway.settling.settle()
        assert [row["state"] for row in await world.rows("select state from attempts where id = 1")] == ["in_doubt"]
        assert world.gateway.house.health.is_blocked("one", "full", 6, is_rental=True)
    for stray in strays:
        stray.state = LeaseState.CANCELLED
    assert live.status.is_open


async def test_a_rental_that_is_never_found_is_booked_as_lost(world: World) -> None:
    world.one.buys.append("sold_out")
    world.two.buys.append("doubt_taken")
    with pytest.raises(NoNumbers):
        await world.rent(world.rental(price_max="0.50"))
    world.watch.now += 7199
    await world.gateway.settling.settle()
    losses = "select amount from ledger where kind = 'loss'"
    assert await world.rows(losses) == []
    assert world.gateway.house.health.is_blocked("two", "full", 6, is_rental=True)
    world.watch.now += 2
    for _ in range(2):
        await world.gateway.settling.settle()
    assert [row["amount"] for row in await world.rows(losses)] == [2 * 120_000]
    assert not world.gateway.house.health.is_blocked("two", "full", 6, is_rental=True)
    assert await paid(world) == (0, 0)


async def test_a_rental_that_is_dearer_than_listed_is_given_back(world: World) -> None:
    world.one.buys.append("dearer")
    with pytest.raises(NoNumbers):
        await world.rent()
    await world.gateway.purchases.drain()
    assert not world.one.sold["rent:one-1"].is_paid
    world.one.buys.append("cheaper")
    live = await world.rent()
    assert live.price_micros == PRICE // 2
    assert await paid(world) == (PRICE // 2, 0)


async def test_one_request_and_one_rental_however_often_it_is_sent(world: World) -> None:
    live = await world.rent(world.rental("the same"))
    world.gateway.handovers.abandon(live, "the same")
    assert (await world.rent(world.rental("the same"))).id == live.id
    assert (await world.rent(world.rental("the same"))).id != live.id
    order = replace(world.rental(), reference="mine")
    await world.rent(order)
    with pytest.raises(OrderExists):
        await world.rent(replace(order, fingerprint="other"))


async def test_nobody_asks_again_for_a_rental_and_it_is_given_back(world: World) -> None:
    live = await world.rent(world.rental("the same"))
    world.gateway.handovers.abandon(live, "the same")
    await world.boot()
    world.watch.now += 70
    await world.round()
    assert again(world, live).status is Status.CANCELLED
    assert await paid(world) == (0, 0)


async def test_money_and_places_bound_parallel_rentals(world: World) -> None:
    got = await asyncio.gather(*(world.rent(world.rental(hours=4)) for _ in range(30)), return_exceptions=True)
    lives = [one for one in got if isinstance(one, Live)]
    errors = [one for one in got if not isinstance(one, Live)]
    assert len(lives) == 10_000_000 // (2 * PRICE)
    assert all(isinstance(error, NoBalance) for error in errors)
    assert len({live.number for live in lives}) == len(lives)
    for live in lives:
        await world.gateway.rentals.cancel(world.caller, live.id)
    assert await paid(world) == (0, 0)


# More time


async def test_more_time_is_paid_at_once_and_keeps_the_rental(world: World) -> None:
    live = await world.rent()
    ends_at = live.expires_at
    await world.extend(live)
    assert live.expires_at == ends_at + 7200
    assert await paid(world) == (0, 2 * PRICE)
    assert (await world.balance()).open_count == 1
    with pytest.raises(NotAllowedNow):
        await world.gateway.rentals.cancel(world.caller, live.id)
    await world.boot()
    assert again(world, live).expires_at == ends_at + 7200
    world.watch.now = ends_at + 60
    await world.round()
    assert again(world, live).status.is_open
    (one,) = await world.gateway.rentals.extensions(world.caller, live.id)
    assert (one.hours, one.price.micros) == (2, PRICE)


@pytest.mark.parametrize(("plan", "error"), [("refused", NotAllowedNow), ("not_reached", Unavailable)])
async def test_more_time_that_is_not_to_be_had_costs_nothing(world: World, plan: str, error: type[CallerError]) -> None:
    live = await world.rent()
    world.one.extends.append(plan)
    with pytest.raises(error):
        await world.extend(live)
    assert await paid(world) == (PRICE, 0)
    assert (await world.balance()).open_count == 1
    await world.extend(live)


async def test_more_time_whose_reply_was_lost_is_seen_at_once(world: World) -> None:
    live = await world.rent()
    ends_at = live.expires_at
    world.one.extends.append("doubt_made")
    await world.extend(live)
    assert live.expires_at == ends_at + 7200
    assert await paid(world) == (0, 2 * PRICE)
    assert [row["state"] for row in await world.rows("select state from attempts order by id")] == ["leased", "leased"]


async def test_more_time_made_and_not_seen_is_the_houses_gift(world: World) -> None:
    live = await world.rent()
    ends_at = live.expires_at
    world.one.extends.append("doubt_made")
    world.one.is_readable = False
    with pytest.raises(Unavailable):
        await world.extend(live)
    assert await paid(world) == (PRICE, 0)
    with pytest.raises(Unavailable):
        await world.extend(live)
    assert len(world.one.sold[live.reference].extended) == 1
    await world.boot()
    world.one.is_readable = True
    await world.gateway.settling.settle()
    assert again(world, live).expires_at == ends_at + 7200
    rows = await world.rows("select kind, amount, activation_id from ledger where kind = 'loss'")
    assert [tuple(row.values()) for row in rows] == [("loss", COST, None)]
    assert await world.gateway.rentals.extensions(world.caller, live.id) == []
    await world.extend(again(world, live))
    assert again(world, live).expires_at == ends_at + 14_400


@pytest.mark.parametrize("plan", ["doubt_made", "doubt"])
async def test_what_an_upstream_only_counts_tells_a_process_that_was_started_since(
    tmp_path: Path, database_url: str, plan: str
) -> None:
    """One of as many hours that was made before is not taken for the one whose answer nobody heard."""
    world = worlds(database_url, tmp_path)()
    world.one = Counting("one", world.watch, 100_000)
    await world.begin()
    live = await world.rent()
    await world.extend(live)
    ends_at = live.expires_at
    world.one.extends.append(plan)
    world.store.fail(2, Died, committed=False)
    with pytest.raises(Died):
        await world.extend(live)
    assert world.store.units[-3:] == ["intend", "note_made_before", "end"]
    await world.boot()
    world.watch.now += SURELY_LATE_SECONDS + 1
    await world.gateway.settling.settle()
    is_made = plan == "doubt_made"
    assert again(world, live).expires_at == ends_at + (7200 if is_made else 0)
    assert await world.rows("select amount from ledger where kind = 'loss'") == [{"amount": COST}] * is_made
    assert [row["state"] for row in await world.rows("select state from attempts order by id")] == [
        "leased",
        "leased",
        "gone",
    ]
    await world.check()
    await world.end()


async def test_a_poll_between_does_not_hide_that_more_time_was_made(world: World) -> None:
    live = await world.rent()
    world.one.extends.append("doubt_made")
    world.one.is_readable = False
    with pytest.raises(Unavailable):
        await world.extend(live)
    world.one.is_readable = True
    await world.poll()
    await world.gateway.settling.settle()
    assert len(await world.rows("select id from ledger where kind = 'loss'")) == 1


async def test_more_time_that_was_never_made_is_settled_as_nothing(world: World) -> None:
    live = await world.rent()
    ends_at = live.expires_at
    world.one.extends.append("doubt")
    with pytest.raises(Unavailable):
        await world.extend(live)
    await world.gateway.settling.settle()
    with pytest.raises(Unavailable):
        await world.extend(live)
    world.watch.now += SURELY_LATE_SECONDS + 1
    await world.gateway.settling.settle()
    assert live.expires_at == ends_at
    assert await world.rows("select id from ledger where kind = 'loss'") == []
    await world.extend(live)


async def test_where_the_end_cannot_be_read_a_lost_extension_is_given_up_in_the_end(world: World) -> None:
    live = await world.rent()
    world.one.extends.append("doubt")
    world.one.is_readable = False
    with pytest.raises(Unavailable):
        await world.extend(live)
    world.watch.now += NEVER_LISTED_SECONDS - 1
    await world.gateway.settling.settle()
    assert [row["state"] for row in await world.rows("select state from attempts order by id")] == [
        "leased",
        "in_doubt",
    ]
    world.watch.now += 2
    await world.gateway.settling.settle()
    assert [row["state"] for row in await world.rows("select state from attempts order by id")] == ["leased", "gone"]


async def test_what_is_rented_anew_instead_of_prolonged_is_given_back(world: World) -> None:
    live = await world.rent()
    ends_at = live.expires_at
    world.one.extends.append("anew")
    with pytest.raises(NotAllowedNow):
        await world.extend(live)
    await world.gateway.purchases.drain()
    assert not world.one.sold["rent:one-2"].is_paid
    assert (live.expires_at, await paid(world)) == (ends_at, (PRICE, 0))
    rows = await world.rows("select state, reference from attempts order by id")
    assert [tuple(row.values()) for row in rows] == [("leased", "rent:one-1"), ("cancelled", "rent:one-2")]
    world.one.extends.append("known")
    with pytest.raises(NotAllowedNow):
        await world.extend(live)
    await world.gateway.purchases.drain()
    assert world.one.sold[live.reference].state is LeaseState.OPEN
    await world.extend(live)


async def test_more_time_takes_no_place(world: World) -> None:
    """Neither of the account's, nor of those its rules allow it."""
    live = await world.rent()

    def bound(tx: Tx, **caps: int) -> None:
        accounts.set_rules(tx, "alice", caps, START)

    await world.store.run(bound, open_max=1)
    with pytest.raises(TooManyOpen):
        await world.rent()

    async def extend() -> Live:
        order = replace(world.order(), product=Product.EXTENSION, hours=2, parent_id=live.id, open_max=1)
        return await world.gateway.rentals.extend(world.caller, order, lambda: False)

    for plan, error in (("refused", NotAllowedNow), ("doubt", Unavailable)):
        world.one.extends.append(plan)
        with pytest.raises(error):
            await extend()
        await world.check()
        assert (await world.balance()).open_count == 1
    world.watch.now += SURELY_LATE_SECONDS + 1
    await world.gateway.settling.settle()
    is_there, go_on = gated(world, is_made_first=True)
    task = asyncio.ensure_future(extend())
    await is_there.wait()
    await world.check()
    assert (await world.balance()).open_count == 1
    go_on.set()
    await task
    await world.check()
    assert await paid(world) == (0, 2 * PRICE)
    await world.store.run(bound, open_max=2, spend_total=2 * PRICE)
    with pytest.raises(NoBalance):
        await world.extend(live)
    await world.store.run(bound, open_max=2, spend_total=10 * PRICE)
    await world.rent()


async def test_two_extensions_at_once_are_one(world: World) -> None:
    live = await world.rent()
    got = await asyncio.gather(*(world.extend(live) for _ in range(5)), return_exceptions=True)
    made = [one for one in got if isinstance(one, Live)]
    assert len(made) == len(world.one.sold[live.reference].extended) >= 1
    assert all(isinstance(one, Live | Unavailable) for one in got)


async def test_a_repeated_extension_of_a_client_that_hung_up_is_not_made_twice(world: World) -> None:
    live = await world.rent()
    await world.extend(live, "more")
    world.gateway.handovers.abandon(live, "more")
    await world.extend(live, "more")
    assert len(world.one.sold[live.reference].extended) == 1
    await world.extend(live, "more")
    assert len(world.one.sold[live.reference].extended) == 2
    world.gateway.handovers.abandon(live, "more")
    world.watch.now += 70
    await world.round()
    assert live.status.is_open


async def test_a_repeated_extension_is_not_made_twice_by_another_process_either(world: World) -> None:
    live = await world.rent()
    world.gateway.house.is_shared = True
    await world.extend(live, "more")
    handovers = world.gateway.handovers
    handovers.abandon(live, "more")
    await handovers.note_answered()
    await world.boot()
    world.gateway.house.is_shared = True
    await world.extend(again(world, live), "more")
    assert len(world.one.sold[live.reference].extended) == 1
    await world.extend(again(world, live), "more")
    assert len(world.one.sold[live.reference].extended) == 2


async def test_what_another_process_gives_back_is_neither_kept_nor_prolonged(world: World) -> None:
    live = await world.rent()
    assert await world.store.run(attempts.begin_cancel, live.id, world.watch.now + 10_000)
    with pytest.raises(Unavailable):
        await world.extend(live)
    assert live.refundable_until is not None
    world.watch.now = live.refundable_until + 1
    await world.gateway.activations.keep_rentals()
    assert not again(world, live).is_kept
    await world.store.run(attempts.end_cancel, live.id)
    await world.gateway.activations.keep_rentals()
    assert again(world, live).is_kept


async def test_an_end_that_the_upstream_moves_is_moved_here(world: World) -> None:
    live = await world.rent()
    sold = world.one.sold[live.reference]
    assert sold.ends_at is not None
    sold.ends_at += 5000
    await world.poll()
    assert live.expires_at == sold.ends_at
    await world.boot()
    assert again(world, live).expires_at == sold.ends_at
    sold.ends_at -= 9000
    await world.poll()
    assert again(world, live).expires_at == sold.ends_at + 9000


async def test_a_rental_that_is_over_cannot_be_prolonged(world: World) -> None:
    live = await world.rent()
    await world.gateway.rentals.finish(world.caller, live.id)
    with pytest.raises(NotAllowedNow):
        await world.extend(live)
    number = await world.buy()
    with pytest.raises(UnknownActivation):
        await world.extend(number)
    await world.gateway.activations.cancel(world.caller, number.id)


# More time, and the end


def gated(world: World, *, is_made_first: bool) -> tuple[asyncio.Event, asyncio.Event]:
    """The next extension stops upstream, before or after it was made: set once it is there, and to let it go on."""
    is_there, go_on, real = asyncio.Event(), asyncio.Event(), world.one.extend

    async def extend(order: BuyOrder) -> float:
        end = await real(order) if is_made_first else 0.0
        is_there.set()
        await go_on.wait()
        return end or await real(order)

    world.one.extend = extend  # type: ignore[method-assign]
    return is_there, go_on


@pytest.mark.parametrize("is_made_first", [True, False])
async def test_a_rental_does_not_end_by_time_while_it_is_prolonged(world: World, *, is_made_first: bool) -> None:
    live = await world.rent()
    ends_at = live.expires_at
    is_there, go_on = gated(world, is_made_first=is_made_first)
    world.one.is_readable = False
    world.watch.now = ends_at - 1
    task = asyncio.ensure_future(world.extend(live))
    await is_there.wait()
    world.watch.now += 2
    await world.tick()
    assert live.status.is_open
    go_on.set()
    assert (await task).expires_at == ends_at + 7200
    world.one.is_readable = True
    await world.round()
    assert live.status.is_open
    assert await paid(world) == (0, 2 * PRICE)


async def test_a_rental_does_not_end_by_time_while_more_time_is_in_doubt(world: World) -> None:
    live = await world.rent()
    ends_at = live.expires_at
    world.watch.now = ends_at - 30
    world.one.extends.append("doubt_made")
    world.one.is_readable = False
    with pytest.raises(Unavailable):
        await world.extend(live)
    world.watch.now = ends_at + 1
    await world.tick()
    assert live.status.is_open
    world.one.is_readable = True
    await world.round()
    assert (live.status.is_open, live.expires_at) == (True, ends_at + 7200)


async def test_a_rental_waits_for_more_time_only_until_that_is_settled(world: World) -> None:
    live = await world.rent()
    world.watch.now = live.expires_at - 30
    world.one.extends.append("doubt")
    world.one.is_readable = False
    with pytest.raises(Unavailable):
        await world.extend(live)
    for seconds in (31, NEVER_LISTED_SECONDS - 32):
        world.watch.now += seconds
        await world.gateway.settling.settle()
        await world.tick()
        assert live.status.is_open
    world.watch.now += 2
    await world.gateway.settling.settle()
    await world.tick()
    assert live.status is Status.FINISHED


@pytest.mark.parametrize("verb", ["finish", "cancel"])
@pytest.mark.parametrize("is_made_first", [True, False])
async def test_nobody_ends_a_rental_while_it_is_prolonged(world: World, verb: str, *, is_made_first: bool) -> None:
    live = await world.rent()
    is_there, go_on = gated(world, is_made_first=is_made_first)
    task = asyncio.ensure_future(world.extend(live))
    await is_there.wait()
    with pytest.raises(Unavailable):
        await getattr(world.gateway.rentals, verb)(world.caller, live.id)
    assert world.one.sold[live.reference].state is LeaseState.OPEN
    go_on.set()
    await task
    assert live.status.is_open
    assert await paid(world) == (0, 2 * PRICE)


@pytest.mark.parametrize("verb", ["finish", "cancel"])
async def test_nobody_ends_a_rental_while_more_time_is_in_doubt(world: World, verb: str) -> None:
    live = await world.rent()
    world.one.extends.append("doubt")
    world.one.is_readable = False
    with pytest.raises(Unavailable):
        await world.extend(live)
    await world.boot()
    with pytest.raises(Unavailable):
        await getattr(world.gateway.rentals, verb)(world.caller, live.id)
    assert world.one.sold[live.reference].state is LeaseState.OPEN
    world.one.is_readable = True
    world.watch.now += SURELY_LATE_SECONDS + 1
    await world.gateway.settling.settle()
    await getattr(world.gateway.rentals, verb)(world.caller, live.id)


async def test_a_rental_that_is_being_given_back_is_not_prolonged(world: World) -> None:
    live = await world.rent()
    is_there, go_on, real = asyncio.Event(), asyncio.Event(), world.one.close

    async def close(reference: str, outcome: Outcome) -> None:
        is_there.set()
        await go_on.wait()
        await real(reference, outcome)

    world.one.close = close  # type: ignore[method-assign]
    task = asyncio.ensure_future(world.gateway.rentals.cancel(world.caller, live.id))
    await is_there.wait()
    with pytest.raises(Unavailable):
        await world.extend(live)
    go_on.set()
    assert (await task).status is Status.CANCELLED
    assert world.one.sold[live.reference].extended == []
    assert await paid(world) == (0, 0)


async def test_more_time_for_a_rental_that_ended_meanwhile_costs_its_caller_nothing(world: World) -> None:
    """Its upstream says that it is over while the extension is under way, which it makes all the same."""
    live = await world.rent()
    is_there, go_on = gated(world, is_made_first=True)
    task = asyncio.ensure_future(world.extend(live))
    await is_there.wait()
    world.one.sold[live.reference].state = LeaseState.CANCELLED
    await world.poll()
    assert live.status is Status.EXPIRED
    go_on.set()
    with pytest.raises(NotAllowedNow):
        await task
    assert await paid(world) == (0, 0)
    assert (await world.balance()).open_count == 0
    rows = await world.rows("select kind, amount from ledger where kind in ('cost', 'loss')")
    assert [tuple(row.values()) for row in rows] == [("loss", COST)]


# What builds on an activation


async def test_the_number_again_and_its_lost_reply(world: World) -> None:
    first = await world.buy()
    world.one.sms(first.reference)
    await world.poll()
    await world.gateway.activations.finish(world.caller, first.id)
    world.one.buys.append("doubt_taken")
    order = replace(world.order(), parent_id=first.id)
    live = await world.gateway.rentals.open_extra(world.caller, order, lambda: False)
    assert (live.number, live.product, live.upstream) == (first.number, Product.AGAIN, "one")
    assert world.one.asked[-1].lease_reference == first.reference
    await world.gateway.activations.cancel(world.caller, live.id)


async def test_several_services_or_none(world: World) -> None:
    for upstream in world.upstreams:
        table = await upstream.offers()
        world.gateway.house.market.put(upstream.name, table)
    orders = [world.order(), replace(world.order(), service="tg")]
    world.one.buys.extend(["lease", "sold_out"])
    with pytest.raises(NoNumbers):
        # The second is the same service as the first, which the number has already.
        await world.gateway.rentals.open_many(world.caller, orders, lambda: False)
    assert not world.one.sold["one-1"].is_paid
    assert (await world.balance()).open_count == 0


async def test_a_rentals_own_address_is_told_beside_the_accounts(world: World) -> None:
    live = await world.rent(replace(world.rental(), webhook_url="https://example.test/rent"))
    world.one.sms(live.reference)
    await world.poll()
    assert [row["format"] for row in await world.rows("select format from notices order by id")] == ["rent"]
    await world.store.run(_set_webhook, world.gateway.house.vault.seal("https://example.test/account"))
    world.one.sms(live.reference)
    await world.poll()
    rows = await world.rows("select format from notices order by id")
    assert [row["format"] for row in rows] == ["rent", "sms_activate", "rent"]


def _set_webhook(tx: Tx, sealed: str) -> None:
    tx.execute("update accounts set webhook_url_sealed = :url", url=sealed)
