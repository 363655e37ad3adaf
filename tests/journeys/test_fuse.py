"""A program run wild: it buys and never receives. What it loses is bounded, exactly, and whoever receives goes on."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from gateway import accounts, fuse, ledger
from gateway.app import Gateway
from gateway.database import open_database
from gateway.errors import CallerError, NoNumbers
from gateway.live import Live
from gateway.model import Order
from gateway.settings import FuseSettings
from gateway.store import Tx
from tests.harness import add_account, config_directory, environment, run_cli
from tests.scripted import World, worlds

STOP, COOLDOWN, WINDOW = 8, 100, 4000
SETTINGS = f"""
[limits]
number_memory_days = 0
[fuse]
slow_after = 3
slow_seconds = 0.5
slow_seconds_max = 1.2
stop_after = {STOP}
cooldown_seconds = {COOLDOWN}
window_seconds = {WINDOW}
"""
PRICE = 100_000
PROCESSES = 4
QUIET, SANDBOX_PRICE = "xmute", 80_000
"""A sandbox service whose numbers never get a code."""


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    made = worlds(database_url, tmp_path, SETTINGS)()
    await made.begin("100.00")
    record_pauses(made)
    yield made
    await made.end()


def record_pauses(world: World) -> list[float]:
    """What slowed purchases would have waited, at once."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    world.gateway.purchases.pause = pause
    return pauses


async def cancel(world: World, live: Live) -> None:
    await world.gateway.activations.cancel(world.caller, live.id)


async def deliver(world: World, live: Live) -> None:
    world.one.sms(live.reference)
    await world.poll()
    assert live.messages


async def run_wild(world: World, seconds: float, *, cancels: bool, code_each: int = 0) -> Counter[str]:
    """A bot that buys every five seconds, whatever it is told, and gets a code with each so many of its numbers."""
    seen: Counter[str] = Counter()
    ends = world.watch.now + seconds
    while world.watch.now < ends:
        world.watch.now += 5
        try:
            live = await world.buy()
        except NoNumbers:
            seen["refused"] += 1
            continue
        seen["bought"] += 1
        if code_each and seen["bought"] % code_each == 0:
            await deliver(world, live)
        elif cancels:
            await cancel(world, live)
    return seen


async def state(world: World) -> fuse.State:
    settings = world.gateway.house.settings.gateway.fuse
    found: fuse.State = await world.store.read(fuse.state, world.caller.key_id, settings, world.watch())
    return found


async def test_a_bot_that_cancels_everything_buys_so_often_and_then_once_a_while(world: World) -> None:
    pauses = record_pauses(world)
    assert await run_wild(world, STOP * 5 + COOLDOWN - 20, cancels=True) == {"bought": STOP, "refused": 16}
    assert pauses[:6] == [0.5, 1.0, 1.2, 1.2, 1.2, 1.2]
    assert (await state(world)).stopped_until is not None
    # Once the while is over it may try as often again, and no oftener.
    assert (await run_wild(world, STOP * 5 + COOLDOWN, cancels=True))["bought"] == STOP
    assert len(world.one.sold) == 2 * STOP
    assert (await world.balance()).held.micros == 0
    await world.check()


async def test_a_process_that_has_not_seen_the_misses_slows_the_first_purchase_too(world: World) -> None:
    for _ in range(4):
        await world.buy()
    await world.boot()
    pauses = record_pauses(world)
    for _ in range(2):
        await world.buy()
    assert pauses == [1.0, 1.2]
    balance = await world.balance()
    assert (balance.held.micros, balance.open_count, len(world.one.sold)) == (6 * PRICE, 6, 6)
    await world.check()


async def test_a_bot_that_does_not_cancel_holds_no_more_than_so_many(world: World) -> None:
    seen = await run_wild(world, STOP * 5 + 30, cancels=False)
    assert seen["bought"] == STOP
    balance = await world.balance()
    assert (balance.held.micros, balance.open_count) == (STOP * PRICE, STOP)
    # What is stopped for is not counted a second time when it expires.
    await world.settle_everything()
    assert (await state(world)).misses == 0
    assert (await run_wild(world, STOP * 5, cancels=True))["bought"] == STOP
    await world.check()


async def test_one_code_in_so_many_keeps_a_key_going_and_one_fewer_does_not(world: World) -> None:
    seen = await run_wild(world, 5 * STOP * 6, cancels=True, code_each=STOP)
    assert seen == {"bought": STOP * 6}
    seen = await run_wild(world, 5 * STOP + COOLDOWN - 10, cancels=True, code_each=STOP + 1)
    assert seen["bought"] == STOP
    await world.check()


async def test_a_code_ends_a_stop(world: World) -> None:
    kept = await world.buy()
    await run_wild(world, STOP * 5 + 10, cancels=True)
    with pytest.raises(NoNumbers):
        await world.buy()
    await deliver(world, kept)
    assert (await state(world)).stopped_until is None
    await world.buy()
    await world.check()


async def test_who_misses_seldom_is_counted_anew(world: World) -> None:
    for _ in range(3 * STOP):
        world.watch.now += WINDOW + 1
        await cancel(world, await world.buy())
    assert await world.rows("select id from fuse_stops") == []


async def test_an_order_that_got_no_number_is_no_miss(world: World) -> None:
    for _ in range(2 * STOP):
        world.one.buys.append("sold_out")
        world.two.buys.append("sold_out")
        with pytest.raises(NoNumbers):
            await world.buy()
    assert (await state(world)).misses == 0
    await cancel(world, await world.buy())
    assert (await state(world)).misses == 1


async def test_purchases_at_once_do_not_get_past_it(world: World) -> None:
    async def one() -> str:
        try:
            await world.buy()
        except CallerError as error:
            return error.code
        return "ok"

    answers = Counter(await asyncio.gather(*(one() for _ in range(5 * STOP))))
    assert answers == {"ok": STOP, "no_numbers": 4 * STOP}
    assert len(await world.rows("select id from fuse_stops")) == 1
    await world.check()


async def _buy(directory: Path, values: Mapping[str, str], key: str, count: int, at: float, *, cancels: bool) -> str:
    """So many purchases at once with one key, each given back at once or left to wait; a letter for each."""
    gateway = Gateway(directory, values, open_database(values), lambda: at)
    caller = await gateway.callers.caller(key)

    async def one(number: int) -> str:
        order = Order(QUIET, 6, fingerprint=f"{os.getpid()}:{number}")
        try:
            live = await gateway.purchases.open(caller, order, lambda: False)
        except NoNumbers:
            return "-"
        if cancels:
            await gateway.activations.cancel(caller, live.id)
        return "+"

    try:
        return "".join(await asyncio.gather(*map(one, range(count))))
    finally:
        await gateway.stop()


def buy(directory: Path, values: Mapping[str, str], key: str, count: int, at: float, cancels: bool) -> str:
    """In a process of its own."""
    return asyncio.run(_buy(directory, values, key, count, at, cancels=cancels))


async def test_several_processes_with_one_key_lose_what_one_would(tmp_path: Path, postgres_url: str) -> None:
    """On PostgreSQL, which they share: as many as one process may, whether they give back or wait."""
    upstreams = '[sandbox]\nadapter = "sandbox"\nearly_cancel = "absorb"\n'
    settings = SETTINGS.replace("slow_after = 3", "slow_after = 0")
    directory, values, at = config_directory(tmp_path, upstreams, gateway=settings), environment(postgres_url), 1.75e9
    database = await asyncio.to_thread(open_database, values)
    key = await add_account(database)

    async def facts() -> tuple[int, int, int]:
        def read(tx: Tx) -> tuple[int, int, int]:
            row = tx.one(
                "select (select count(*) from activations where status <> 'failed') as bought,"
                " (select sum(held) from balances) as held, (select count(*) from fuse_stops) as stops"
            )
            assert row is not None
            return int(row["bought"]), int(row["held"]), int(row["stops"])

        return await database.store.read(read)

    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:

        async def run(at: float, *, cancels: bool) -> Counter[str]:
            loop, share = asyncio.get_running_loop(), 5 * STOP // PROCESSES
            work = [
                loop.run_in_executor(pool, buy, directory, values, key, share, at, cancels) for _ in range(PROCESSES)
            ]
            return Counter("".join(await asyncio.gather(*work)))

        assert await run(at, cancels=True) == {"+": STOP, "-": 4 * STOP}
        assert await facts() == (STOP, 0, 1)
        at += COOLDOWN + 1
        assert await run(at, cancels=False) == {"+": STOP, "-": 4 * STOP}
        assert await facts() == (2 * STOP, STOP * SANDBOX_PRICE, 2)
        # While those wait that it was stopped for, it gets no more, however long that takes.
        at += COOLDOWN + 1
        assert await run(at, cancels=False) == {"-": 5 * STOP}
        assert (await facts())[:2] == (2 * STOP, STOP * SANDBOX_PRICE)
    assert await database.store.read(ledger.verify) == []
    await database.store.close()


async def test_a_counter_that_its_purchases_do_not_bear_out_is_found(world: World) -> None:
    await run_wild(world, 15, cancels=True)
    world.watch.now += 3600
    await cancel(world, await world.buy())
    key = f"fuses: key {world.caller.key_id}"

    async def problems(change: str) -> list[str]:
        def unit(tx: Tx) -> list[str]:
            before = tx.one("select missed, missed_at, stopped_until from fuses")
            assert before is not None
            tx.execute(f"update fuses set {change}")  # noqa: S608 — constants below
            found = ledger.verify(tx)
            tx.execute(
                "update fuses set missed = :missed, missed_at = :missed_at, stopped_until = :stopped_until", **before
            )
            return found

        found: list[str] = await world.store.run(unit)
        return found

    assert await problems("missed = missed") == []
    assert await problems("missed = 5") == [f"{key} shows 5 missed, its purchases say 4 at most"]
    assert await problems("missed = 0, missed_at = missed_at - 3600") == [
        f"{key} shows 0 missed, its purchases say 1 at least"
    ]
    assert await problems("stopped_until = 5") == [f"{key} is stopped, and there is no such stop"]
    world.watch.now += 600
    await deliver(world, await world.buy())
    assert await problems("missed = missed") == []
    assert await problems("missed = 1") == [f"{key} shows 1 missed, its purchases say 0 at most"]


async def test_a_replaced_key_has_the_fuse_of_the_first(world: World) -> None:
    await run_wild(world, STOP * 5, cancels=True)
    issued = await world.store.run(
        accounts.rotate_key, world.gateway.house.vault, world.caller.key_id, world.watch(), 3600.0
    )
    world.caller = await world.gateway.callers.caller(issued.key)
    with pytest.raises(NoNumbers):
        await world.buy()


async def test_a_rental_kept_without_a_message_has_missed_and_a_message_makes_it_good(world: World) -> None:
    rental = await world.rent()
    assert (await state(world)).misses == 1
    world.watch.now += 1201
    await world.round()
    assert rental.is_kept
    found = await state(world)
    assert (found.missed, found.waiting) == (1, 0)
    await deliver(world, rental)
    assert (await state(world)).misses == 0


async def test_its_owner_and_the_operator_see_it_and_can_end_it(world: World) -> None:
    gateway, caller = world.gateway, world.caller
    await run_wild(world, STOP * 5 + 10, cancels=True)
    subject = f"key {caller.key_id} of alice"
    await gateway._overseer.report()
    rows = await world.rows("select name, subject from alerts where name = 'fuse_blown'")
    assert rows == [{"name": "fuse_blown", "subject": subject}]
    stops = await world.store.read(fuse.stops, caller.account_id)
    assert [(row["key_id"], row["misses"]) for row in stops] == [(caller.key_id, STOP)]
    await world.store.run(fuse.reset, caller.key_id)
    await gateway._overseer.report()
    assert await world.rows("select name from alerts where name = 'fuse_blown'") == []
    await world.buy()


async def test_a_key_may_have_settings_of_its_own(world: World) -> None:
    await world.store.run(fuse.set_own, world.caller.key_id, {"stop_after": 2, "slow_after": 0})
    assert (await run_wild(world, 50, cancels=True))["bought"] == 2
    await world.store.run(fuse.set_own, world.caller.key_id, {"stop_after": 0})
    assert await run_wild(world, 100, cancels=True) == {"bought": 20}


def test_the_wait_grows_up_to_a_bound() -> None:
    settings = FuseSettings(slow_after=10, slow_seconds=0.5, slow_seconds_max=2.0)
    assert [fuse.pause_seconds(settings, misses) for misses in (0, 9, 10, 11, 13, 14, 99)] == [
        0.0, 0.0, 0.5, 1.0, 2.0, 2.0, 2.0,
    ]  # fmt: skip
    assert fuse.pause_seconds(FuseSettings(slow_after=0), 10**6) == 0.0


async def test_the_command_shows_sets_and_resets(sqlite_url: str, tmp_path: Path) -> None:
    made = worlds(sqlite_url, tmp_path, SETTINGS)()
    await made.begin("100.00")
    record_pauses(made)
    await run_wild(made, STOP * 5 + 10, cancels=True)
    await made.end()

    def key(*arguments: str) -> str:
        done = run_cli(made._values, made._directory, "key", "fuse", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    key_id = str(made.caller.key_id)
    assert f"0 ended and 0 wait without a code, of {STOP}" in key(key_id)
    assert f"  {STOP}\n" in key(key_id)
    assert "of 3" in key(key_id, "--stop-after", "3", "--reset")
    assert f"of {STOP}" in key(key_id, "--stop-after", "default")
    refused = run_cli(made._values, made._directory, "key", "fuse", "999999")
    assert (refused.returncode, refused.stderr) == (1, "Error: there is no key 999999\n")
