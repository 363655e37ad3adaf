"""Leases that go on under another reference once another SMS was asked for: crashes, restarts, lost answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway import settling
from gateway.activations import RESENDING_EXTRA_SECONDS
from gateway.errors import NoNumbers, NotAllowedNow, Unavailable
from gateway.live import Live
from gateway.model import LeaseState, Outcome, Sms, Status
from gateway.upstream import Pushed, PushRequest, PushTaken
from tests.harness import House, config_directory, environment, house
from tests.scripted import SERVICE, Died, Moving, World, worlds
from tests.simulators import smspool
from tests.simulators._serve import serve


class Pushing(Moving):
    """Tells of one message, under the reference it came to."""

    pushed = Pushed("")

    async def take_push(self, request: PushRequest) -> PushTaken:
        return PushTaken((self.pushed,))


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def make_world(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], World]:
    return worlds(request.getfixturevalue(request.param), tmp_path)


@asynccontextmanager
async def opened(made: World) -> AsyncIterator[tuple[World, Pushing]]:
    """A world whose first upstream moves leases, and an activation that has had its first code."""
    made.one = there = Pushing("one", made.watch, 100_000)
    try:
        await made.begin()
        made.gateway.handovers.answered(await made.buy())
        await made.gateway.handovers.note_answered()
        there.sms("one-1")
        await made.poll()
        yield made, there
    finally:
        await made.end()


@pytest.fixture
async def world(make_world: Callable[[], World]) -> AsyncIterator[tuple[World, Pushing]]:
    async with opened(make_world()) as made:
        yield made


def sole(world: World) -> Live:
    (live,) = world.gateway.house.live.all_open()
    return live


async def ask_again(world: World) -> Live:
    return await world.gateway.activations.ask_again(world.caller, sole(world).id)


async def strangers(world: World, monkeypatch: pytest.MonkeyPatch) -> float | None:
    """How many a sweep finds, however young they are."""
    monkeypatch.setattr(settling, "STRANGER_SECONDS_MIN", -1.0)
    await world.gateway.settling.sweep_strangers()
    registry = world.gateway.house.metrics.registry
    return registry.get_sample_value("simroute_strangers", {"upstream": "one"})


async def test_codes_of_every_round_come_after_a_restart_and_no_order_is_a_stranger(
    world: tuple[World, Pushing], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, there = world
    for round_, reference in ((2, "one-2"), (3, "one-3")):
        assert (await ask_again(made)).status is Status.RETRYING
        await made.boot()
        live = sole(made)
        assert (live.status, live.round, live.reference) == (Status.RETRYING, round_, reference)
        there.sms(reference)
        await made.poll()
        assert (live.status, len(live.messages), live.messages[-1].round) == (Status.RECEIVED, round_, round_)
        assert await strangers(made, monkeypatch) == 0
    assert {sold.state for sold in there.sold.values()} == {LeaseState.OPEN}
    await made.check()


@pytest.mark.parametrize("is_listed", [True, False])
async def test_an_answer_that_was_lost_is_looked_for_before_another_sms_is_asked_for(
    world: tuple[World, Pushing], is_listed: bool
) -> None:
    made, there = world
    there.resends.append("lost" if is_listed else "late")
    with pytest.raises(Unavailable):
        await ask_again(made)
    live = await ask_again(made)
    wanted = "one-2" if is_listed else "one-3"
    assert (live.status, live.round, live.reference, max(there.sold)) == (Status.RETRYING, 2, wanted, wanted)
    there.sms(wanted)
    await made.poll()
    assert len(live.messages) == 2


async def test_wherever_the_process_dies_a_repeat_gets_the_order_that_was_made(
    make_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is noted that another SMS is asked for, after that, when it was made, and when that is written down."""
    for place, is_committed in ((0, False), (0, True), (1, False), (1, True)):
        async with opened(make_world()) as (made, there):
            made.store.fail(place, Died, committed=is_committed)
            with pytest.raises(Died):
                await ask_again(made)
            was_made = len(there.sold) == 2
            assert was_made is (place == 1)
            await made.boot()
            assert await strangers(made, monkeypatch) == 0
            if (place, is_committed) in ((0, True), (1, False)):
                with pytest.raises(Unavailable):
                    await ask_again(made)  # for all we know the one who died is still at it
                deadline_seconds = made.gateway.house.settings.gateway.activations.cancel_deadline_seconds
                made.watch.now += 2 * deadline_seconds + RESENDING_EXTRA_SECONDS + 1
            live = await ask_again(made)
            assert (live.status, live.round, live.reference) == (Status.RETRYING, 2, "one-2")
            there.sms("one-2")
            await made.poll()
            assert len(live.messages) == len(there.sold) == 2
            assert await strangers(made, monkeypatch) == 0
            await made.check()


async def test_a_request_under_way_is_no_stranger_and_no_lost_purchase(
    world: tuple[World, Pushing], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, there = world

    async def meanwhile() -> None:
        assert await strangers(made, monkeypatch) == 0
        there.buys.append("doubt")
        made.two.buys.append("sold_out")
        with pytest.raises(NoNumbers):
            await made.buy()
        made.watch.now += 2
        await made.gateway.settling.settle()

    there.before_move = meanwhile
    assert (await ask_again(made)).reference == "one-2"
    assert there.sold["one-2"].state is LeaseState.OPEN
    assert await made.rows("select state, reference from attempts where state <> 'leased' and upstream = 'one'") == [
        {"state": "in_doubt", "reference": None}
    ]


async def test_what_was_asked_for_an_activation_that_ends_meanwhile_is_given_back(
    world: tuple[World, Pushing], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, there = world

    async def finish() -> None:
        await made.gateway.activations.finish(made.caller, sole(made).id)
        await made.gateway.activations.close_upstream()

    there.before_move = finish
    with pytest.raises(NotAllowedNow):
        await ask_again(made)
    await made.gateway.activations.close_upstream()
    assert there.sold["one-2"].state is LeaseState.CANCELLED
    assert await strangers(made, monkeypatch) == 0
    assert await made.rows("select id from activations where close_outcome is not null") == []
    await made.check()


async def test_what_is_made_while_the_order_of_before_is_closed_is_closed_too(
    world: tuple[World, Pushing], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, there = world
    close, is_closing, is_moved = there.close, asyncio.Event(), asyncio.Event()

    async def slow(reference: str, outcome: Outcome) -> None:
        if reference == "one-1":
            is_closing.set()
            await is_moved.wait()
        await close(reference, outcome)

    async def finish() -> None:
        await made.gateway.activations.finish(made.caller, sole(made).id)
        closings.append(asyncio.create_task(made.gateway.activations.close_upstream()))
        await is_closing.wait()

    closings: list[asyncio.Task[None]] = []
    monkeypatch.setattr(there, "close", slow)
    there.before_move = finish
    with pytest.raises(NotAllowedNow):
        await ask_again(made)
    is_moved.set()
    await asyncio.gather(*closings)
    await made.gateway.activations.close_upstream()
    assert there.sold["one-2"].state is LeaseState.CANCELLED
    assert await made.rows("select id from activations where close_outcome is not null") == []


async def test_of_two_requests_at_once_one_asks(world: tuple[World, Pushing]) -> None:
    made, there = world

    async def repeat() -> None:
        with pytest.raises(Unavailable):
            await ask_again(made)

    there.before_move = repeat
    assert (await ask_again(made)).status is Status.RETRYING
    assert (await ask_again(made)).status is Status.RETRYING
    assert len(there.sold) == 2


async def test_a_refusal_leaves_the_lease_where_it_is(world: tuple[World, Pushing]) -> None:
    made, there = world
    there.resends.extend(["refused", "stay"])
    with pytest.raises(NotAllowedNow):
        await ask_again(made)
    assert await made.rows("select resend_until from activations") == [{"resend_until": None}]
    live = await ask_again(made)
    assert (live.status, live.reference, len(there.sold)) == (Status.RETRYING, "one-1", 1)


async def test_a_lease_does_not_go_on_under_another_ones_reference(world: tuple[World, Pushing]) -> None:
    made, there = world
    live, other = sole(made), await made.buy()
    there.resends.append("known")
    with pytest.raises(NotAllowedNow):
        await made.gateway.activations.ask_again(made.caller, live.id)
    assert (live.status, live.reference, other.reference) == (Status.RECEIVED, "one-1", "one-2")
    there.sms("one-2")
    await made.poll()
    assert (len(live.messages), len(other.messages)) == (1, 1)
    assert (await made.gateway.activations.ask_again(made.caller, live.id)).reference == "one-3"


async def test_the_end_of_an_order_that_was_left_behind_says_nothing_of_the_one_that_goes_on(
    world: tuple[World, Pushing],
) -> None:
    """A poll that was on its way while the lease moved on, and brings in that the order before is over."""
    made, there = world
    live = sole(made)
    there.sold["one-1"].state = LeaseState.CANCELLED
    over = there.progress("one-1")
    await ask_again(made)
    await made.gateway.activations.take(live, 1, over)
    assert not live.is_over_upstream
    assert (await ask_again(made)).status is Status.RETRYING


async def test_a_push_under_the_reference_of_before_makes_the_lease_be_read(world: tuple[World, Pushing]) -> None:
    """It may be the first message once more: only what is read under the new reference is of the new round."""
    made, there = world
    live = await ask_again(made)
    there.sms("one-2")
    there.pushed = Pushed("one-1", (Sms("1001", "code 1001"),))
    await made.gateway.inbox.take("one", PushRequest("POST", "", {}, b""))
    await made.gateway.inbox.drain()
    assert [message.code for message in live.messages] == ["1001", "1001"]
    assert live.messages[-1].round == 2
    there.pushed = Pushed("one-2", (Sms("2002", "code 2002", identity="another"),))
    await made.gateway.inbox.take("one", PushRequest("POST", "", {}, b""))
    assert live.code == "2002"


async def priced(made: House) -> None:
    """Waits for the price list."""
    for _ in range(400):
        if SERVICE in await made.call("getPrices", service=SERVICE, country=16):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the gateway has no prices")


@pytest.mark.parametrize("database", ["sqlite_url", "postgres_url"])
async def test_smspools_next_code_comes_to_a_gateway_that_was_started_meanwhile(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    app = smspool.build(sms_delay_seconds=None, resend_renames=True)
    with serve(app) as base:
        upstreams = f'[smspool]\nbase_url = "{base}"\npoll_seconds = 0.1\nstatus_calls_per_second = 50.0\n'
        directory = config_directory(tmp_path, upstreams)
        values = environment(request.getfixturevalue(database), SMSPOOL_API_KEY=smspool.DEFAULT_KEY)
        async with house(directory, values, is_demo=False) as before:
            await priced(before)
            activation = await before.buy(SERVICE, 16)
            first = app.state.sim.order_views()[0]["id"]
            app.state.sim.deliver(first, "Your code is 12345")
            await before.until(activation, "STATUS_OK:12345")
            assert await before.call("setStatus", id=activation, status=3) == "ACCESS_RETRY_GET"
        async with house(directory, values, balances={}) as after:
            after.keys = before.keys
            assert await after.call("getStatus", id=activation) == "STATUS_WAIT_RETRY:12345"
            app.state.sim.deliver(first, "Your code is 67890")
            await after.until(activation, "STATUS_OK:67890")
            assert await after.call("setStatus", id=activation, status=6) == "ACCESS_ACTIVATION"
            assert len(app.state.sim.orders) == 2
            assert await after.problems() == []
