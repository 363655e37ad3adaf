"""A number handed over is written down or given back whatever fails, and an upstream that hangs keeps nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway import settling, worker
from gateway.attempts import exposures, orphaned_at, orphans
from gateway.errors import NoNumbers, Unavailable, UnknownLease, Unwell
from gateway.model import LeaseState, Outcome
from gateway.refunds import DENIED_SECONDS
from gateway.settling import GIVEN_BACK_TOGETHER, STRANGER_SECONDS_MIN
from gateway.store import Tx
from tests.scripted import World, worlds

LONG_SECONDS = 30.0
ATTACH_TWO = 3
"""Which unit of work writes down what `two` handed over, after `one` has refused."""


class Oddity(Exception):
    """A failure that nobody here has thought of."""


@pytest.fixture
async def world(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    world = worlds(database_url, tmp_path)()
    await world.begin()
    yield world
    await world.end()


async def buy_from_two(world: World, plan: str, error: type[Exception]) -> None:
    """An order that `two`, which has no list, hands a number to, and that ends in an error."""
    world.one.buys.append("sold_out")
    world.two.buys.append(plan)
    with pytest.raises(error):
        await world.buy(world.order(price_max="0.50"))


async def attempts(world: World, *columns: str) -> list[tuple[Any, ...]]:
    rows = await world.rows("select id, upstream, state, reference from attempts order by id")
    return [tuple(row[column] for column in columns) for row in rows]


async def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# Written down whatever fails


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("plan", ["lease", "dearer"])
async def test_a_number_whose_writing_failed_for_no_known_reason_is_given_back(
    world: World, plan: str, committed: bool
) -> None:
    world.store.fail(ATTACH_TWO, Oddity, committed=committed)
    await buy_from_two(world, plan, Oddity)
    await world.settle_everything()
    assert [sold.is_paid for sold in world.two.sold.values()] == [False]
    await world.check_settled()


async def test_a_number_that_can_not_be_written_as_it_is_is_given_back_by_its_reference(world: World) -> None:
    world.two.numbers.append("6281\ud83d")
    await buy_from_two(world, "lease", UnicodeEncodeError)
    await world.gateway.settling.settle()
    assert await attempts(world, "upstream", "state", "reference") == [
        ("one", "refused", None),
        ("two", "cancelled", "two-1"),
    ]
    await world.check_settled()


async def test_what_was_rented_in_place_of_more_time_is_given_back_whatever_fails(world: World) -> None:
    rental = await world.rent()
    world.one.extends.append("anew")
    world.store.fail(1, Oddity, committed=False)
    with pytest.raises(Oddity):
        await world.extend(rental)
    await world.gateway.settling.settle()
    assert [sold.is_paid for sold in world.one.sold.values()] == [True, False]
    assert world.one.sold[rental.reference].state is LeaseState.OPEN


async def test_one_that_is_refused_again_is_told_once_and_keeps_no_other(world: World) -> None:
    for _ in range(2):
        world.store.fail(ATTACH_TWO, Oddity, committed=False)
        await buy_from_two(world, "lease", Oddity)
    with capture_logs() as entries:
        for _ in range(2):
            world.store.fail(0, Oddity, committed=False)
            await world.gateway.settling.settle()
    assert [sold.is_paid for sold in world.two.sold.values()] == [True, False]
    (told,) = (entry for entry in entries if entry["event"] == "lease.unwritten")
    assert (told["error"], told["attempt"]) == ("Oddity", (await attempts(world, "id"))[1][0])
    await world.gateway.settling.settle()
    assert not any(sold.is_paid for sold in world.two.sold.values())
    await world.check()


# At the stop


async def test_a_stop_writes_down_what_could_not_be_written_before(world: World) -> None:
    world.store.fail(ATTACH_TWO, Unavailable, committed=False)
    await buy_from_two(world, "lease", Unavailable)
    await world.gateway.worker.stop()
    assert await attempts(world, "upstream", "state", "reference") == [
        ("one", "refused", None),
        ("two", "orphan", "two-1"),
    ]
    await world.boot()
    await world.settle_everything()
    await world.check_settled()
    assert [sold.is_paid for sold in world.two.sold.values()] == [False]


async def test_a_stop_tries_for_a_moment_only_and_says_what_it_could_not_write(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "LAST_TRIES_SECONDS", 0.1)
    world.two.numbers.append("628123456789")
    world.store.fail(ATTACH_TWO, Unavailable, committed=False)
    await buy_from_two(world, "lease", Unavailable)
    (_, (attempt_id,)) = await attempts(world, "id")

    async def away(*_args: object, **_values: object) -> None:
        raise Unavailable

    with monkeypatch.context() as patch, capture_logs() as entries:
        patch.setattr(world.store, "run", away)
        async with asyncio.timeout(LONG_SECONDS):
            await world.gateway.worker.stop()
    assert {"event": "stop.leases_unwritten", "log_level": "warning", "attempts": [attempt_id]} in entries
    assert "628123456789" not in repr(entries)


# One that hangs keeps nobody


async def orphan(world: World, one: str, two: str) -> None:
    world.one.buys.append(one)
    world.two.buys.append(two)
    with pytest.raises(NoNumbers):
        await world.buy(world.order(price_max="0.50"))


@pytest.fixture
def is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "ERRAND_SECONDS", 0.2)


async def test_closings_that_hang_keep_neither_a_round_nor_another_upstream_nor_a_stop(
    world: World, monkeypatch: pytest.MonkeyPatch, is_short: None
) -> None:
    gate, close = asyncio.Event(), world.one.close

    async def hang(reference: str, outcome: Outcome) -> None:
        await gate.wait()
        await close(reference, outcome)

    monkeypatch.setattr(world.one, "close", hang)
    for _ in range(GIVEN_BACK_TOGETHER + 1):
        await orphan(world, "dearer", "sold_out")
    async with asyncio.timeout(LONG_SECONDS):
        await world.gateway.purchases.drain()
        world.two.closes.append("unwell")
        await orphan(world, "sold_out", "dearer")
        await world.gateway.purchases.drain()
        world.watch.now += 5
        await world.gateway.settling.settle()
        await until(lambda: not any(sold.is_paid for sold in world.two.sold.values()))
    assert all(sold.is_paid for sold in world.one.sold.values())
    gate.set()
    await until(lambda: not any(sold.is_paid for sold in world.one.sold.values()))
    await world.gateway.settling.settle()
    assert {state for _, state in await attempts(world, "upstream", "state")} == {"cancelled", "refused"}
    assert len(world.one.sold) == GIVEN_BACK_TOGETHER + 1


async def test_a_stop_leaves_what_hangs_to_the_next_process(
    world: World, monkeypatch: pytest.MonkeyPatch, is_short: None
) -> None:
    async def hang(_reference: str, _outcome: Outcome) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(world.one, "close", hang)
        await orphan(world, "dearer", "sold_out")
        async with asyncio.timeout(LONG_SECONDS):
            await world.gateway.worker.stop()
        assert not world.gateway.settling._errands._begun_at
    await world.boot()
    await world.gateway.settling.settle()
    assert not any(sold.is_paid for sold in world.one.sold.values())


async def test_a_stop_does_not_wait_for_an_end_that_is_being_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_reference: str, _outcome: Outcome) -> None:
        await asyncio.Event().wait()

    live = await world.buy()
    world.one.closes.append("too_early")
    await world.gateway.activations.cancel(world.caller, live.id)
    world.watch.now += 300
    with monkeypatch.context() as patch:
        patch.setattr(world.one, "close", hang)
        patch.setattr(worker, "LAST_CLOSINGS_SECONDS", 0.2)
        world.gateway.worker.start()
        async with asyncio.timeout(LONG_SECONDS):
            await world.gateway.worker.stop()
    await world.boot()
    await world.gateway.activations.close_upstream()
    assert not any(sold.is_paid for sold in world.one.sold.values())


async def test_many_that_are_not_taken_back_keep_none_of_their_upstream_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, close = list[str](), world.one.close
    last = f"one-{2 * GIVEN_BACK_TOGETHER + 1}"

    async def refuse_all_but_the_last(reference: str, outcome: Outcome) -> None:
        asked.append(reference)
        if reference != last:
            raise Unwell("not now")
        await close(reference, outcome)

    monkeypatch.setattr(world.one, "close", refuse_all_but_the_last)
    for _ in range(2 * GIVEN_BACK_TOGETHER + 1):
        await orphan(world, "dearer", "sold_out")
    await world.gateway.purchases.drain()
    asked.clear()
    await world.gateway.settling.settle()
    assert sorted(asked) in (sorted({*world.one.sold} - {last}), sorted(world.one.sold))
    assert not world.one.sold[last].is_paid


async def test_one_whose_closing_fails_for_no_known_reason_keeps_none_waiting_and_is_a_loss_in_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = world.one.close

    async def break_at_the_first(reference: str, outcome: Outcome) -> None:
        if reference == "one-1":
            raise Oddity("28123456789")
        await close(reference, outcome)

    monkeypatch.setattr(world.one, "close", break_at_the_first)
    for _ in range(2 * GIVEN_BACK_TOGETHER + 1):
        await orphan(world, "dearer", "sold_out")
    with capture_logs() as entries:
        await world.gateway.purchases.drain()
        await world.gateway.settling.settle()
    assert [name for name, sold in world.one.sold.items() if sold.is_paid] == ["one-1"]
    assert "28123456789" not in repr(entries)
    world.watch.now += 2 * 3600
    await world.gateway.settling.settle()
    assert len(await world.rows("select id from ledger where kind = 'loss'")) == 1
    assert ("one", "orphan") not in await attempts(world, "upstream", "state")


async def test_one_that_is_denied_at_once_is_asked_back_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    close = world.one.close

    async def deny(_reference: str, _outcome: Outcome) -> None:
        raise UnknownLease("no such lease")

    with monkeypatch.context() as patch:
        patch.setattr(world.one, "close", deny)
        await orphan(world, "dearer", "sold_out")
        await world.gateway.purchases.drain()
    assert world.one.close == close
    world.watch.now += 5
    await world.gateway.settling.settle()
    assert not any(sold.is_paid for sold in world.one.sold.values())


async def test_one_that_is_denied_for_good_costs_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def deny(_reference: str, _outcome: Outcome) -> None:
        raise UnknownLease("no such lease")

    monkeypatch.setattr(world.one, "close", deny)
    await orphan(world, "dearer", "sold_out")
    world.watch.now += DENIED_SECONDS
    await world.gateway.settling.settle()
    assert ("one", "cancelled") in await attempts(world, "upstream", "state")


async def test_a_list_that_breaks_keeps_no_doubt_from_growing_old(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise Oddity

    await orphan(world, "doubt", "sold_out")
    world.one.before_find = fail
    world.watch.now += 2 * 3600
    await world.gateway.settling.settle()
    assert ("one", "in_doubt") not in await attempts(world, "upstream", "state")


async def test_what_is_exposed_is_found_by_its_index(world: World) -> None:
    if world.store.dialect != "sqlite":
        return  # with rows enough it goes without saying there
    queries: list[str] = []

    def explain(tx: Tx) -> list[str]:
        class Explaining:
            def all(self, sql: str, **values: Any) -> list[Any]:
                queries.extend(row["detail"] for row in tx.all(f"explain query plan {sql}", **values))
                return []

        given: Any = Explaining()
        orphaned_at(given)
        orphans(given, "one", 0, 5)
        exposures(given)
        return queries

    plans = await world.store.read(explain)
    assert len([plan for plan in plans if "attempts_exposed" in plan]) == 3
    assert not [plan for plan in plans if plan.startswith("SCAN") and "attempts_exposed" not in plan]


async def test_a_list_that_hangs_keeps_nobody_elses_doubts_and_no_order_left_behind(
    world: World, is_short: None
) -> None:
    gate = asyncio.Event()
    await orphan(world, "doubt", "sold_out")
    world.two.closes.append("unwell")
    await orphan(world, "sold_out", "dearer")
    await world.gateway.purchases.drain()
    world.one.before_find = wait_for(gate)
    async with asyncio.timeout(LONG_SECONDS):
        await world.gateway.settling.settle()
        await until(lambda: not any(sold.is_paid for sold in world.two.sold.values()))
    assert ("one", "in_doubt") in await attempts(world, "upstream", "state")
    gate.set()


async def test_a_stranger_whose_cancel_hangs_keeps_no_round(
    world: World, monkeypatch: pytest.MonkeyPatch, is_short: None
) -> None:
    gate, close = asyncio.Event(), world.one.close

    async def hang(reference: str, outcome: Outcome) -> None:
        await gate.wait()
        await close(reference, outcome)

    live = await world.buy()
    stranger = world.one._sell(world.one.sold[live.reference].order, world.one.cost)
    monkeypatch.setattr(world.one, "close", hang)
    world.watch.now += STRANGER_SECONDS_MIN + 1
    async with asyncio.timeout(LONG_SECONDS):
        for _ in range(2):
            await world.gateway.settling.sweep_strangers()
    gate.set()
    await until(lambda: not stranger.is_paid)


def wait_for(event: asyncio.Event) -> Callable[[], Any]:
    async def wait() -> None:
        await event.wait()

    return wait
