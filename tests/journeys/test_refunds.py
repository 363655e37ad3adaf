"""Numbers without a code go back while their money can still be had, the most urgent first; what is lost is said."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import refunds
from gateway.errors import Unwell
from gateway.live import Live
from gateway.model import LeaseState, Outcome, Progress, Status, Watched
from tests.scripted import START, World, worlds

WINDOW_SECONDS = 600.0


@pytest.fixture
async def world(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    world = worlds(database_url, tmp_path)()
    await world.begin("100.00")
    say(world, refund_seconds=WINDOW_SECONDS)
    yield world
    await world.end()


def say(world: World, **keys: object) -> None:
    """What the stanza of `one` says besides; a restart forgets it."""
    house = world.gateway.house
    stanza = house.settings.upstreams["one"].model_copy(update=keys)
    house.settings = replace(house.settings, upstreams={**house.settings.upstreams, "one": stanza})


async def cancelled_too_early(world: World) -> Live:
    live = await world.buy()
    world.one.closes.append("too_early")
    await world.gateway.activations.cancel(world.caller, live.id)
    return live


async def losses(world: World) -> list[int]:
    return [row["amount"] for row in await world.rows("select amount from ledger where kind = 'loss'")]


async def test_a_number_ends_while_its_money_can_still_be_had(world: World) -> None:
    live = await world.buy()
    assert live.expires_at == START + WINDOW_SECONDS - refunds.MARGIN_SECONDS
    world.watch.now = live.expires_at
    await world.round()
    assert (live.status, world.one.sold[live.reference].state) == (Status.EXPIRED, LeaseState.CANCELLED)
    assert await losses(world) == []
    await world.check()


async def test_a_cancel_waits_for_its_window_to_open_restarts_included(world: World) -> None:
    live = await cancelled_too_early(world)
    await world.boot()
    say(world, refund_seconds=WINDOW_SECONDS)
    world.watch.now += 9
    await world.gateway.activations.close_upstream()
    assert world.one.sold[live.reference].state is LeaseState.OPEN, "the upstream named an age of ten seconds"
    world.watch.now += 2
    await world.gateway.activations.close_upstream()
    assert world.one.sold[live.reference].state is LeaseState.CANCELLED
    await world.check()


async def test_a_window_that_closes_unused_is_a_loss_and_said(world: World) -> None:
    live = await cancelled_too_early(world)
    world.one.is_well = False
    told: list[float] = []
    close = world.one.close

    async def noting(reference: str, outcome: Outcome) -> None:
        told.append(world.watch.now - START)
        await close(reference, outcome)

    world.one.close = noting  # type: ignore[method-assign]
    while world.watch.now < START + WINDOW_SECONDS + 60:
        world.watch.now += 1
        await world.gateway.activations.close_upstream()
    assert WINDOW_SECONDS - 5 < told[-2] < WINDOW_SECONDS, "it is tried once more right before it is too late"
    assert WINDOW_SECONDS <= told[-1] < WINDOW_SECONDS + 5
    assert await losses(world) == [100_000]
    assert (await world.balance()).available.micros == world.deposited
    house = world.gateway.house
    assert list(house.losses.sentences(world.watch.now)) == ["refund:one"]
    assert house.losses.sentences(world.watch.now + refunds.TOLD_SECONDS) == {}
    text = house.metrics.render().decode()
    assert 'simroute_refunds_lost_total{upstream="one"} 1.0' in text
    assert 'simroute_refunds_lost_amount_total{currency="USD",upstream="one"} 0.1' in text
    assert live.status is Status.CANCELLED
    await world.check()


async def test_a_number_the_upstream_keeps_for_good_is_a_loss_once(world: World) -> None:
    live = await world.buy()
    world.one.closes.extend(["never", "never"])
    await world.gateway.activations.cancel(world.caller, live.id)
    await world.round()
    await world.round()
    assert await losses(world) == [100_000]
    assert await world.rows("select id from activations where close_outcome is not null") == []
    await world.check()


async def test_without_a_window_a_refusal_costs_nothing(world: World) -> None:
    say(world, refund_seconds=None)
    live = await world.buy()
    assert live.expires_at == START + 1200
    world.one.closes.append("never")
    await world.gateway.activations.cancel(world.caller, live.id)
    await world.round()
    assert await losses(world) == []


async def test_the_most_urgent_go_first_where_the_upstream_is_slow(world: World) -> None:
    say(world, status_calls_per_second=2.0)
    lives = []
    for _ in range(5):
        lives.append(await world.buy())
        world.watch.now += 1
    world.one.sms(lives[0].reference)
    await world.poll()
    await world.gateway.activations.finish(world.caller, lives[0].id)
    for live in reversed(lives[1:]):
        world.one.closes.append("unwell")
        await world.gateway.activations.cancel(world.caller, live.id)
    world.watch.now += 60
    closed: list[list[str]] = []
    for _ in range(3):
        before = {one.reference for one in world.one.sold.values() if one.state is LeaseState.OPEN}
        await world.gateway.activations.close_upstream()
        after = {one.reference for one in world.one.sold.values() if one.state is LeaseState.OPEN}
        closed.append(sorted(before - after))
    assert closed == [["one-2", "one-3"], ["one-4", "one-5"], ["one-1"]]
    await world.check()


async def test_an_upstream_that_hangs_keeps_nobody_elses_numbers(world: World) -> None:
    """Far more of its own wait than are told at once, and none of its answers come."""
    gate = asyncio.Event()

    async def hang(reference: str, outcome: Outcome) -> None:
        await gate.wait()
        raise Unwell("at last")

    at_one = [await world.buy() for _ in range(refunds.DUE_MAX + 5)]
    world.one.buys.append("sold_out")
    at_two = await world.buy(world.order(price_max="0.50"))
    for live in [*at_one, at_two]:
        live.expires_at = world.watch.now
    await world.gateway.activations.expire()
    world.one.close = hang  # type: ignore[method-assign]
    activations = world.gateway.activations
    await activations.close_upstream(waits=False)
    for _ in range(200):
        await activations.close_upstream(waits=False)
        if world.two.sold[at_two.reference].state is LeaseState.CANCELLED:
            break
        await asyncio.sleep(0.02)
    assert world.two.sold[at_two.reference].state is LeaseState.CANCELLED
    assert {one.state for one in world.one.sold.values()} == {LeaseState.OPEN}
    gate.set()
    await activations.close_upstream()


async def test_numbers_of_an_upstream_that_is_gone_hold_up_nobody_and_are_given_up_at_last(world: World) -> None:
    at_two = []
    for _ in range(refunds.DUE_MAX + 5):
        world.one.buys.append("sold_out")
        at_two.append(await world.buy(world.order(price_max="0.50")))
    at_one = await world.buy()
    for live in [*at_two, at_one]:
        live.expires_at = world.watch.now
    await world.gateway.activations.expire()
    world.gateway.house.upstreams = {"one": world.one}
    await world.gateway.activations.close_upstream()
    assert world.one.sold[at_one.reference].state is LeaseState.CANCELLED
    world.watch.now += refunds.GONE_SECONDS
    for _ in range(refunds.TRIES_MAX * 7):
        world.watch.now += refunds.PAUSE_SECONDS_MAX
        await world.gateway.activations.close_upstream()
    assert await world.rows("select id from activations where close_outcome is not null") == []


async def test_ends_elsewhere_do_not_wait_for_an_upstream_that_is_left_out(world: World) -> None:
    """Each of its numbers would be looked at once more, for three seconds, twenty-five at a time."""
    at_one = [await world.buy() for _ in range(30)]
    world.one.buys.append("sold_out")
    at_two = await world.buy(world.order(price_max="0.50"))

    async def hang(watched: Watched) -> Progress:
        await asyncio.sleep(3600)
        raise Unwell("never")

    world.one.read = hang  # type: ignore[method-assign]
    for _ in range(world.gateway.house.settings.gateway.health.faults_to_open):
        world.gateway.house.health.fault("one", "does not answer")
    for live in [*at_one, at_two]:
        live.expires_at = world.watch.now
    started = time.monotonic()
    await world.gateway.activations.expire()
    assert time.monotonic() - started < 2.5
    assert {live.status for live in [*at_one, at_two]} == {Status.EXPIRED}
