"""The process dies, anywhere: nothing is bought twice, no money is lost, and every number sold to us is accounted for.

Within this process a store fails for good at a chosen unit of work, before it or right after its commit; between them
that is every boundary there is, since what happens between two units is one call to an upstream. The same is then done
to `simroute serve` with SIGKILL, while an upstream on a real socket holds its answer back.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.database import Database, open_database
from gateway.errors import CallerError, Unavailable
from gateway.live import Live
from gateway.model import LeaseState, Status
from tests.harness import PATH, Server, add_account, config_directory, environment, run_cli, server
from tests.scripted import Died, World, worlds
from tests.simulators import handler_api
from tests.simulators._handler_engine import HandlerApi
from tests.simulators._serve import serve

Scenario = Callable[[World], Awaitable[Any]]


async def nothing(_world: World) -> None:
    """No preparation."""


async def bought(world: World) -> None:
    """A number was bought and its client told."""
    world.gateway.handovers.answered(await world.buy())
    await world.gateway.handovers.note_answered()


async def with_sms(world: World) -> None:
    """As `bought`, and a message has come and been shown."""
    await bought(world)
    world.one.sms("one-1")
    await world.poll()


async def left_in_doubt(world: World) -> None:
    """A purchase in doubt, whose number appears in the list later."""
    world.one.buys.append("doubt_hidden")
    world.two.buys.append("sold_out")
    with pytest.raises(CallerError):
        await world.buy()
    world.one.show_hidden()


def buying(one: str, two: str = "lease") -> Scenario:
    """An order whose upstreams do as told."""

    async def act(world: World) -> None:
        world.one.buys.append(one)
        world.two.buys.append(two)
        # A cap above both prices, so that the second upstream is turned to.
        await world.buy(world.order("the same", "0.50"))
        await world.gateway.purchases.drain()

    return act


def cancelling(close: str) -> Scenario:
    """A cancel, and what is left to do upstream afterwards."""

    async def act(world: World) -> None:
        world.one.closes.append(close)
        live = sole(world)
        await world.gateway.activations.cancel(world.caller, live.id)
        world.watch.now += 30
        await world.gateway.activations.close_upstream()

    return act


async def delivering(world: World) -> None:
    world.one.sms("one-1")
    await world.poll()


async def asking_again_and_finishing(world: World) -> None:
    activations, live = world.gateway.activations, sole(world)
    await activations.ask_again(world.caller, live.id)
    world.one.sms("one-1")
    await world.poll()
    await activations.finish(world.caller, live.id)
    await activations.close_upstream()


async def expiring(world: World) -> None:
    world.watch.now += 1300
    await world.gateway.activations.expire()
    await world.gateway.activations.close_upstream()


async def settling(world: World) -> None:
    await world.gateway.settling.settle()


async def rented(world: World) -> None:
    """A rental whose client was told of it."""
    world.gateway.handovers.answered(await world.rent())
    await world.gateway.handovers.note_answered()


async def rented_with_sms(world: World) -> None:
    await rented(world)
    world.one.sms("rent:one-1")
    await world.poll()


async def extension_left_in_doubt(world: World) -> None:
    """More time was made, and neither the reply nor the rental's end could be seen."""
    await rented(world)
    world.one.extends.append("doubt_made")
    world.one.is_readable = False
    with pytest.raises(CallerError):
        await world.extend(sole(world))
    world.one.is_readable = True


async def finished(world: World) -> None:
    """An activation that is over, whose number may be had again."""
    await with_sms(world)
    await world.gateway.activations.finish(world.caller, sole(world).id)


def renting(one: str, two: str = "lease") -> Scenario:
    async def act(world: World) -> None:
        world.one.buys.append(one)
        world.two.buys.append(two)
        await world.rent(world.rental("the same", price_max="0.50"))
        await world.gateway.purchases.drain()

    return act


def extending(plan: str) -> Scenario:
    async def act(world: World) -> None:
        world.one.extends.append(plan)
        await world.extend(sole(world))

    return act


def giving_back_the_rental(close: str) -> Scenario:
    async def act(world: World) -> None:
        world.one.closes.append(close)
        await world.gateway.rentals.cancel(world.caller, sole(world).id)
        world.watch.now += 30
        await world.gateway.activations.close_upstream()

    return act


async def finishing_the_rental(world: World) -> None:
    await world.gateway.rentals.finish(world.caller, sole(world).id)
    await world.gateway.activations.close_upstream()


async def keeping(world: World) -> None:
    world.watch.now += 1300
    await world.gateway.activations.keep_rentals()


async def delivering_to_the_rental(world: World) -> None:
    world.one.sms("rent:one-1")
    await world.poll()


async def ending_the_rental(world: World) -> None:
    world.watch.now += 7300
    await world.gateway.activations.expire()
    await world.gateway.activations.close_upstream()


async def having_the_number_again(world: World) -> None:
    order = world.order()
    (row,) = await world.rows("select id from activations")
    await world.gateway.rentals.open_extra(world.caller, replace(order, parent_id=row["id"]), lambda: False)


def sole(world: World) -> Live:
    (live,) = world.gateway.house.live.all_open()
    return live


SCENARIOS: dict[str, tuple[Scenario, Scenario, int]] = {
    "a purchase": (nothing, buying("lease"), 2),
    "a purchase below the quote": (nothing, buying("cheaper"), 2),
    "refused, then bought": (nothing, buying("refused"), 4),
    "refused by both": (nothing, buying("refused", "sold_out"), 5),
    "above the cap, then bought": (nothing, buying("dearer"), 5),
    "reply lost and found": (nothing, buying("doubt_taken"), 4),
    "reply lost for good, then bought": (nothing, buying("doubt_hidden"), 5),
    "in doubt where nobody can be asked": (nothing, buying("sold_out", "doubt_taken"), 6),
    "a purchase in doubt is settled": (left_in_doubt, settling, 2),
    "a cancel": (bought, cancelling("accept"), 1),
    "a cancel for later": (bought, cancelling("too_early"), 2),
    "a cancel whose answer is lost": (bought, cancelling("deaf"), 2),
    "a delivery": (bought, delivering, 1),
    "another code, then finished": (with_sms, asking_again_and_finishing, 4),
    "an end without a code": (bought, expiring, 2),
    "an end with a code": (with_sms, expiring, 2),
    "a rental": (nothing, renting("lease"), 2),
    "a rental, found after its reply was lost": (nothing, renting("doubt_taken"), 4),
    "a rental, lost for good, then rented": (nothing, renting("doubt_hidden"), 5),
    "a rental in doubt where nobody can be asked": (nothing, renting("sold_out", "doubt_taken"), 6),
    "a rental above the cap, then rented": (nothing, renting("dearer"), 5),
    "a rental's money is kept": (rented, keeping, 1),
    "a rental's first message": (rented, delivering_to_the_rental, 1),
    "a rental given back": (rented, giving_back_the_rental("accept"), 1),
    "a rental given back for later": (rented, giving_back_the_rental("too_early"), 2),
    "a rental given back, its answer lost": (rented, giving_back_the_rental("deaf"), 2),
    "a rental finished without a message": (rented, finishing_the_rental, 2),
    "a rental finished": (rented_with_sms, finishing_the_rental, 2),
    "a rental at its end": (rented, ending_the_rental, 2),
    "a rental at its end, with messages": (rented_with_sms, ending_the_rental, 2),
    "more time": (rented, extending("accept"), 2),
    "more time, refused": (rented, extending("refused"), 3),
    "more time, seen after its reply was lost": (rented, extending("doubt_made"), 3),
    "more time in doubt": (rented, extending("doubt"), 3),
    "more time in doubt is settled": (extension_left_in_doubt, settling, 1),
    "the number again": (finished, having_the_number_again, 2),
}
"""What comes first, what is interrupted, and how many units of work that takes at least."""


def bought_so_far(world: World) -> list[int]:
    return [len(upstream.asked) for upstream in world.upstreams]


async def act(world: World, scenario: Scenario) -> None:
    with suppress(Died, CallerError):
        await scenario(world)


async def each_fault(
    make: Callable[[], World], name: str, error: type[BaseException], then: Callable[[World], Awaitable[None]]
) -> int:
    """Plays a scenario once for each unit of work in it, which fails before or after its commit; how many there are."""
    prepare, scenario, _ = SCENARIOS[name]
    for number in itertools.count():
        for committed in (False, True):
            world = make()
            await world.begin()
            await prepare(world)
            world.store.fail(number, error, committed=committed)
            await act(world, scenario)
            is_beyond = world.store.disarm()
            if not is_beyond:
                await then(world)
            await world.end()
            if is_beyond:
                return number
    raise AssertionError


async def restart_and_check(world: World) -> None:
    """What a machine that lost its power comes back to."""
    before = bought_so_far(world)
    await world.check()
    await world.boot()
    await world.check()
    await world.check_attached()
    await world.settle_everything()
    assert bought_so_far(world) == before, "recovery must not buy"
    await world.check_settled()


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_death_at_any_boundary_loses_nothing(tmp_path: Path, database_url: str, name: str) -> None:
    units = await each_fault(worlds(database_url, tmp_path), name, Died, restart_and_check)
    assert units >= SCENARIOS[name][2]


async def carry_on_and_check(world: World) -> None:
    """The database was away for one unit only; the process goes on."""
    await world.check()
    await world.settle_everything()
    await world.check_settled()


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_database_away_at_any_boundary_loses_nothing(tmp_path: Path, sqlite_url: str, name: str) -> None:
    await each_fault(worlds(sqlite_url, tmp_path), name, Unavailable, carry_on_and_check)


async def test_a_commit_whose_answer_was_lost_is_noticed(tmp_path: Path, sqlite_url: str) -> None:
    """Memory follows the database: a code that was paid for is shown, an end that was written is an end."""
    world = worlds(sqlite_url, tmp_path)()
    await world.begin()
    await bought(world)
    live = sole(world)
    world.one.sms("one-1")
    world.store.fail(0, Unavailable, committed=True)
    with pytest.raises(Unavailable):
        await world.poll()
    assert await world.captured() == 100_000
    await world.poll()
    assert (live.status, live.code) == (Status.RECEIVED, "1001")
    for verb, status in (("ask_again", Status.RETRYING), ("finish", Status.FINISHED)):
        world.store.fail(0, Unavailable, committed=True)
        with pytest.raises(Unavailable):
            await getattr(world.gateway.activations, verb)(world.caller, live.id)
        assert (await getattr(world.gateway.activations, verb)(world.caller, live.id)).status is status
    assert live.round == 2
    await world.check()
    await world.end()


async def test_a_cancel_whose_commit_was_lost_is_noticed(tmp_path: Path, sqlite_url: str) -> None:
    world = worlds(sqlite_url, tmp_path)()
    await world.begin()
    await bought(world)
    live = sole(world)
    world.store.fail(0, Unavailable, committed=True)
    with pytest.raises(Unavailable):
        await world.gateway.activations.cancel(world.caller, live.id)
    assert (await world.gateway.activations.cancel(world.caller, live.id)).status is Status.CANCELLED
    assert (await world.balance()).available.micros == world.deposited
    await world.end()


async def test_after_a_death_the_identical_request_gets_the_number(tmp_path: Path, database_url: str) -> None:
    make = worlds(database_url, tmp_path)
    for wait, is_same in ((1.0, True), (70.0, False)):
        world = make()
        await world.begin()
        lost = await world.buy(world.order("the same"))
        await world.boot()
        world.watch.now += wait
        await world.tick()
        live = await world.buy(world.order("the same"))
        assert (live.id == lost.id) is is_same
        assert len(world.one.asked) == (1 if is_same else 2)
        assert (await world.balance()).held.micros == 100_000
        assert (world.one.sold["one-1"].state is LeaseState.OPEN) is is_same
        await world.end()


async def test_after_a_death_a_number_that_its_client_polls_is_left_to_it(tmp_path: Path, sqlite_url: str) -> None:
    """The answer went out and the process died before that was written down."""
    world = worlds(sqlite_url, tmp_path)()
    await world.begin()
    known = await world.buy(world.order("the same"))
    world.gateway.handovers.answered(known)
    await world.boot()
    assert world.gateway.activations.peek(world.caller.account_id, known.id) is not None
    assert (await world.buy(world.order("the same"))).id != known.id
    world.watch.now += 70
    await world.round()
    assert world.one.sold["one-1"].state is LeaseState.OPEN
    await world.end()


# A whole process, killed


class Killed:
    """A server process that is killed and started again on the same database, and its one client."""

    def __init__(self, url: str, base: str, tmp_path: Path) -> None:
        stanza = f'[one]\nadapter = "herosms"\nbase_url = "{base}/stubs/handler_api.php"\npoll_seconds = 0.1\n'
        self.values = environment(url, ONE_API_KEY=handler_api.DEFAULT_KEY)
        self.directory = config_directory(tmp_path, stanza, "[activations]\nclaim_seconds = 1\n")
        self.log = tmp_path / "log"
        self.database: Database = open_database(self.values)
        self.key = ""
        self.server: Server

    @contextmanager
    def running(self) -> Iterator[httpx.Client]:
        with (
            server(self.directory, self.values, self.log) as self.server,
            httpx.Client(base_url=self.server.base, timeout=20) as client,
        ):
            until(lambda: '"wa"' in self.call(client, "getPrices", country=6))
            yield client

    def call(self, client: httpx.Client, action: str, **more: object) -> str:
        query = {"api_key": self.key, "action": action, **{name: str(value) for name, value in more.items()}}
        return client.get(PATH, params=query).text

    def buy(self, client: httpx.Client) -> str:
        answer = self.call(client, "getNumber", service="tg", country=6)
        assert answer.startswith("ACCESS_NUMBER:"), answer
        return answer.split(":")[1]

    def killed_during(self, client: httpx.Client, is_time: Callable[[], bool], action: str, **more: object) -> None:
        """Asks, and kills the process when it is time."""
        with ThreadPoolExecutor(1) as threads:
            asking = threads.submit(self.call, client, action, **more)
            until(is_time)
            self.server.kill()
            assert isinstance(asking.exception(10), httpx.TransportError)

    def read(self, sql: str) -> list[dict[str, Any]]:
        async def ask() -> list[dict[str, Any]]:
            return await self.database.store.read(lambda tx: [dict(row) for row in tx.all(sql)])

        return asyncio.run(ask())

    def balance(self, client: httpx.Client) -> str:
        return self.call(client, "getBalance").removeprefix("ACCESS_BALANCE:")

    def verified(self) -> None:
        outcome = run_cli(self.values, self.directory, "ledger", "verify")
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@contextmanager
def killable(tmp_path: Path, url: str) -> Iterator[tuple[Killed, HandlerApi]]:
    """The gateway, whose account has ten dollars, and the upstream it buys from."""
    app = handler_api.build(brand="herosms", early_cancel_seconds=0, sms_delay_seconds=None)
    with serve(app) as base:
        killed = Killed(url, base, tmp_path)
        try:
            killed.key = asyncio.run(add_account(killed.database, is_demo=False))
            yield killed, app.state.sim
            killed.verified()
        finally:
            asyncio.run(killed.database.store.close())


def until(is_so: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def price(sim: HandlerApi) -> float:
    return float(sim.shelves["tg", "6"].price)


def test_killed_while_the_upstream_sells(tmp_path: Path, database_url: str) -> None:
    with killable(tmp_path, database_url) as (killed, sim):
        with killed.running() as client:
            sim.fault("buy.hang")
            killed.killed_during(client, lambda: sim.purchases == 1, "getNumber", service="tg", country=6)
        sim.clear_faults()
        with killed.running() as client:
            until(lambda: not sim.open)
            assert [order.state for order in sim.orders.values()] == ["cancelled"]
            assert killed.balance(client) == "10.00"
            assert sim.purchases == 1
            killed.buy(client)
            assert sim.purchases == 2


def test_killed_before_the_upstream_sells(tmp_path: Path, sqlite_url: str) -> None:
    with killable(tmp_path, sqlite_url) as (killed, sim):
        with killed.running() as client:
            sim.fault("buy.hang", commit=False)
            asked = sim.requests["getNumberV2"]
            killed.killed_during(
                client, lambda: sim.requests["getNumberV2"] > asked, "getNumber", service="tg", country=6
            )
        sim.clear_faults()
        with killed.running() as client:
            assert killed.balance(client) == "10.00"
            assert killed.call(client, "getNumber", service="tg", country=6) == "NO_NUMBERS"
            assert sim.purchases == 0
        assert [row["state"] for row in killed.read("select state from attempts")] == ["in_doubt"]


def test_killed_right_after_the_answer(tmp_path: Path, sqlite_url: str) -> None:
    with killable(tmp_path, sqlite_url) as (killed, sim):
        with killed.running() as client:
            activation_id = killed.buy(client)
            killed.server.kill()
        with killed.running() as client:
            assert killed.call(client, "getStatus", id=activation_id) == "STATUS_WAIT_CODE"
            time.sleep(1.5)  # longer than an unclaimed number waits
            sim.deliver(next(iter(sim.open)), "Your code is 24680")
            until(lambda: killed.call(client, "getStatus", id=activation_id) == "STATUS_OK:24680")
            assert float(killed.balance(client)) == pytest.approx(10 - price(sim))
        assert sim.purchases == 1


def test_killed_while_the_upstream_cancels(tmp_path: Path, sqlite_url: str) -> None:
    with killable(tmp_path, sqlite_url) as (killed, sim):
        with killed.running() as client:
            activation_id = killed.buy(client)
            time.sleep(0.4)  # it is written down that the client was told
            sim.fault("close.hang")
            killed.killed_during(client, lambda: not sim.open, "setStatus", id=activation_id, status=8)
        sim.clear_faults()
        with killed.running() as client:
            until(lambda: killed.call(client, "getStatus", id=activation_id) == "STATUS_CANCEL")
            assert killed.call(client, "setStatus", id=activation_id, status=8) == "ACCESS_CANCEL"
            assert killed.balance(client) == "10.00"


def test_killed_between_two_codes(tmp_path: Path, sqlite_url: str) -> None:
    with killable(tmp_path, sqlite_url) as (killed, sim):
        with killed.running() as client:
            activation_id = killed.buy(client)
            (order,) = sim.open
            sim.deliver(order, "Your code is 11111")
            until(lambda: killed.call(client, "getStatus", id=activation_id) == "STATUS_OK:11111")
            assert killed.call(client, "setStatus", id=activation_id, status=3) == "ACCESS_RETRY_GET"
            sim.fault("status.hang")
            sim.fault("list.hang")
            sim.deliver(order, "Your code is 22222")
            asked = sum(sim.requests.values())
            until(lambda: sum(sim.requests.values()) > asked)
            killed.server.kill()
        sim.clear_faults()
        with killed.running() as client:
            until(lambda: killed.call(client, "getStatus", id=activation_id) == "STATUS_OK:22222")
            assert killed.call(client, "setStatus", id=activation_id, status=6) == "ACCESS_ACTIVATION"
            until(lambda: not sim.open)
            assert float(killed.balance(client)) == pytest.approx(10 - price(sim))
        assert [row["times"] for row in killed.read("select count(*) as times from messages")] == [2]
