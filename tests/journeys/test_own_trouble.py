"""What goes wrong with one activation, or at one upstream, keeps nobody else's code or end waiting, nor any money."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from unittest.mock import AsyncMock, patch

import pytest
from structlog.testing import capture_logs

from gateway.activations import RENTAL_UNKNOWN_TIMES_MAX, UNKNOWN_TIMES_MAX
from gateway.errors import Unavailable, UnknownLease
from gateway.live import Live
from gateway.model import LeaseState, Outcome, Progress, Sms, Status, Watched
from gateway.poller import Poller
from gateway.refunds import DENIED_SECONDS
from tests.scripted import START, World, worlds

ODD = "\ud83d code 4821"
"""Half a character, which nothing can encode: here it stands for whatever nobody has thought of."""

PRICE = 100_000


@pytest.fixture
async def world(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    world = worlds(database_url, tmp_path)()
    await world.begin()
    yield world
    await world.end()


async def bought(world: World) -> Live:
    """A number that its client knows of."""
    live = await world.buy()
    world.gateway.handovers.answered(live)
    return live


def spoil(world: World, live: Live) -> None:
    world.one.sold[live.reference].messages.append(Sms("4821", ODD, identity="odd"))


def lists(world: World, read_many: Callable[[Sequence[Watched]], Awaitable[Mapping[str, Progress]]]) -> None:
    world.one.read_many = read_many  # type: ignore[attr-defined]


async def losses(world: World) -> list[tuple[int, int]]:
    rows = await world.rows("select activation_id, amount from ledger where kind = 'loss' order by id")
    return [(row["activation_id"], row["amount"]) for row in rows]


async def told(world: World, references: Sequence[Watched]) -> Mapping[str, Progress]:
    return {one.reference: world.one.progress(one.reference) for one in references}


@pytest.mark.parametrize("in_a_list", [True, False], ids=["list", "singly"])
async def test_a_message_that_cannot_be_taken_hides_no_other_ones(world: World, in_a_list: bool) -> None:
    odd, fine = await bought(world), await bought(world)
    spoil(world, odd)
    world.one.sms(fine.reference)
    if in_a_list:
        lists(world, lambda asked: told(world, asked))
    poller = Poller(world.gateway.house, world.gateway.activations, "one")
    with capture_logs() as lines:
        for _ in range(3):
            await poller.sweep()
            world.watch.now += 10
    assert (odd.status, fine.status, fine.code) == (Status.WAITING, Status.RECEIVED, "1001")
    unexpected = [line for line in lines if line["event"] == "activation.unexpected"]
    assert [(line["activation"], line["error"]) for line in unexpected] == [(odd.id, "UnicodeEncodeError")]
    assert not any(word in str(lines) for word in ("4821", odd.number))


async def test_a_list_that_cannot_be_read_for_one_odd_row_is_read_singly(world: World) -> None:
    async def fails(asked: Sequence[Watched]) -> Mapping[str, Progress]:
        raise KeyError("4821")

    lists(world, fails)
    live = await bought(world)
    world.one.sms(live.reference)
    with capture_logs() as lines:
        await Poller(world.gateway.house, world.gateway.activations, "one").sweep()
    assert live.status is Status.RECEIVED
    assert [(line["event"], line["error"]) for line in lines if line["log_level"] == "error"] == [
        ("poll.unexpected", "KeyError")
    ]
    assert "4821" not in str(lines)


async def test_an_activation_whose_last_look_fails_ends_and_its_paid_number_is_the_operators_loss(world: World) -> None:
    odd, fine = await bought(world), await bought(world)
    spoil(world, odd)
    world.one.sms(fine.reference)
    world.watch.now = max(odd.expires_at, fine.expires_at)
    await world.tick()
    assert (odd.status, fine.status) == (Status.EXPIRED, Status.FINISHED)
    assert (await world.balance()).held.micros == 0
    await world.gateway.activations.close_upstream()
    assert await losses(world) == [(odd.id, PRICE)]
    await world.settle_everything()
    await world.check_settled()
    assert await losses(world) == [(odd.id, PRICE)]


async def test_a_rental_whose_last_look_fails_is_kept_and_ended_in_time(world: World) -> None:
    live = await world.rent()
    world.gateway.handovers.answered(live)
    spoil(world, live)
    assert live.refundable_until is not None
    world.watch.now = live.refundable_until
    await world.tick()
    assert live.is_kept
    world.watch.now = live.expires_at
    await world.tick()
    assert live.status is Status.FINISHED
    world.one.sold[live.reference].messages.clear()
    await world.settle_everything()
    await world.check_settled()


@pytest.mark.parametrize("error", [RuntimeError, Unavailable])
async def test_each_part_of_a_round_is_done_though_another_one_failed(world: World, error: type[Exception]) -> None:
    gateway = world.gateway
    await bought(world)
    gateway.house.metrics.open_activations.set(0)
    with (
        patch.object(gateway.callers, "refresh", AsyncMock(side_effect=error)),
        patch.object(gateway.sessions, "refresh", wraps=gateway.sessions.refresh) as sessions,
    ):
        if error is Unavailable:
            with pytest.raises(Unavailable):
                await gateway.worker._tick()
        else:
            await gateway.worker._tick()
    assert sessions.call_count == 1
    assert b"simroute_open_activations 1.0" in gateway.house.metrics.render()


async def test_an_abandoned_number_that_cannot_be_given_back_for_a_reason_of_its_own_is_tried_again(
    world: World,
) -> None:
    odd, fine = await world.buy(), await world.buy()
    for live in (odd, fine):
        world.gateway.handovers.abandon(live, "")
    plain = world.one.close

    async def close(reference: str, outcome: Outcome) -> None:
        if reference == odd.reference:
            raise KeyError("what nobody expected")
        await plain(reference, outcome)

    world.watch.now += 61
    with patch.object(world.one, "close", close):
        await world.gateway.worker._give_back_abandoned()
    assert (odd.status, fine.status) == (Status.WAITING, Status.CANCELLED)
    world.watch.now += 61
    await world.gateway.worker._give_back_abandoned()
    assert odd.status is Status.CANCELLED


async def test_an_end_that_cannot_be_told_for_a_reason_of_its_own_is_told_later(world: World) -> None:
    odd, fine = await bought(world), await bought(world)
    plain, tries = world.one.close, 0

    async def close(reference: str, outcome: Outcome) -> None:
        nonlocal tries
        if reference == odd.reference:
            tries += 1
            raise KeyError("what nobody expected")
        await plain(reference, outcome)

    world.watch.now = max(odd.expires_at, fine.expires_at)
    await world.gateway.activations.expire()
    with patch.object(world.one, "close", close):
        for _ in range(3):
            await world.gateway.activations.close_upstream()
    assert tries == 1
    assert not world.one.sold[fine.reference].is_paid
    await world.settle_everything()
    await world.check_settled()
    assert not world.one.sold[odd.reference].is_paid


# Upstreams that are wrong about a number


async def polled(world: World, times: int) -> None:
    for _ in range(times):
        await world.poll()


@pytest.mark.parametrize("kind", ["number", "rental"])
async def test_a_number_that_is_denied_for_a_while_is_given_back_afterwards(world: World, kind: str) -> None:
    live = await bought(world) if kind == "number" else await world.rent()
    world.gateway.handovers.answered(live)
    times = UNKNOWN_TIMES_MAX if kind == "number" else RENTAL_UNKNOWN_TIMES_MAX
    world.one.denied.add(live.reference)
    with patch.object(world.one, "close", AsyncMock(side_effect=UnknownLease("a glitch"))) as denying:
        await polled(world, times)
        await world.gateway.activations.close_upstream()
        assert live.status is Status.EXPIRED
        assert denying.call_count == 0
    assert (await world.balance()).held.micros == 0
    world.one.denied.clear()
    world.watch.now += DENIED_SECONDS
    await world.gateway.activations.close_upstream()
    assert world.one.sold[live.reference].state is LeaseState.CANCELLED
    await world.settle_everything()
    await world.check_settled()


async def test_a_number_that_is_denied_when_its_client_cancels_is_asked_back_again(world: World) -> None:
    live = await bought(world)
    world.watch.now += 300
    with patch.object(world.one, "close", AsyncMock(side_effect=UnknownLease("a glitch"))):
        await world.gateway.activations.cancel(world.caller, live.id)
    assert live.status is Status.CANCELLED
    await world.settle_everything()
    await world.check_settled()
    assert not world.one.sold[live.reference].is_paid


@pytest.mark.parametrize("is_shown_again", [True, False])
async def test_a_late_message_that_its_upstream_withholds_is_the_operators_loss(
    world: World, is_shown_again: bool
) -> None:
    live = await world.buy()
    world.one.closes.append("too_early")
    await world.gateway.activations.cancel(world.caller, live.id)
    world.one.sms(live.reference)
    world.one.denied = {live.reference}
    world.watch.now += 300
    await world.gateway.activations.close_upstream()
    (row,) = await world.rows("select close_outcome from activations")
    assert row["close_outcome"] is not None  # it is told again
    if is_shown_again:
        world.one.denied.clear()
    for _ in range(40):
        world.watch.now += 600
        await world.gateway.activations.close_upstream()
    assert len(await world.rows("select id from ledger where kind = 'loss'")) == 1
    assert [row["is_shown"] for row in await world.rows("select is_shown from messages")] == [0] * is_shown_again
    (row,) = await world.rows("select close_outcome from activations")
    assert row["close_outcome"] is None


async def test_a_number_that_its_upstream_has_lost_costs_nobody_anything(world: World) -> None:
    live = await bought(world)
    del world.one.sold[live.reference]
    await polled(world, UNKNOWN_TIMES_MAX)
    assert live.status is Status.EXPIRED
    await world.settle_everything()
    await world.check_settled()
    assert await losses(world) == []


@pytest.mark.parametrize("is_wrong", [True, False], ids=["wrongly", "rightly"])
async def test_a_number_that_is_called_finished_without_a_code_is_given_back_or_a_loss(
    world: World, is_wrong: bool
) -> None:
    live = await bought(world)
    world.one.finish(live.reference)
    await polled(world, 1)
    assert live.status is Status.EXPIRED
    assert (await world.balance()).held.micros == 0
    if is_wrong:
        world.one.sold[live.reference].state = LeaseState.OPEN
    await world.settle_everything()
    await world.check_settled()
    assert await losses(world) == ([] if is_wrong else [(live.id, PRICE)])
    assert world.one.sold[live.reference].is_paid is not is_wrong


@pytest.mark.parametrize("how", ["unreadable", "denied"])
async def test_a_number_that_its_upstream_finished_before_the_client_cancels_is_a_loss(world: World, how: str) -> None:
    live = await bought(world)
    world.one.finish(live.reference)
    world.one.is_readable = how != "unreadable"
    world.one.denied = {live.reference}
    world.watch.now += 300
    await world.gateway.activations.cancel(world.caller, live.id)
    await world.gateway.activations.close_upstream()
    assert await losses(world) == [], "nobody knows yet"
    await world.settle_everything()
    await world.check_settled()
    assert await losses(world) == [(live.id, PRICE)]


# Upstreams that hang


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(1000):
        if is_so():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("not within twenty seconds")


async def test_ends_keys_and_abandoned_numbers_do_not_wait_for_an_upstream_that_hangs(
    tmp_path: Path, sqlite_url: str
) -> None:
    limits = "[limits]\nopen_activations = 500\n[activations]\ncancel_deadline_seconds = 30.0\n"
    world = worlds(sqlite_url, tmp_path, limits)()
    await world.begin("100.00")
    hanging = [await bought(world) for _ in range(30)]
    world.one.buys.append("sold_out")
    other = await world.buy(world.order(price_max="0.50"))
    world.one.buys.append("sold_out")
    abandoned = await world.buy(world.order(price_max="0.50"))
    world.gateway.handovers.answered(other)
    gate = asyncio.Event()

    async def hang(_watched: Watched) -> Progress:
        await gate.wait()
        return Progress(LeaseState.OPEN)

    worker, callers = world.gateway.worker, world.gateway.callers
    for live in (*hanging, other):
        live.expires_at = START + 61
    world.gateway.handovers.abandon(abandoned, "")
    world.watch.now = START + 61
    with (
        patch.object(world.one, "read", hang),
        patch.object(callers, "refresh", wraps=callers.refresh) as refreshed,
    ):
        worker.start()
        await until(lambda: not other.status.is_open and not abandoned.status.is_open and refreshed.call_count > 1)
        assert all(live.status is Status.WAITING for live in hanging)
        gate.set()
        await until(lambda: not any(live.status.is_open for live in hanging))
        await worker.stop()
    await world.end()


async def test_numbers_of_an_upstream_that_was_taken_out_still_end(world: World) -> None:
    live = await bought(world)
    world.gateway.house.upstreams = {"two": world.two}
    world.watch.now = live.expires_at
    await world.gateway.worker._tick()
    assert live.status is Status.EXPIRED
    assert (await world.balance()).held.micros == 0
