"""A client hangs up while its purchase is under way at one process and repeats its request at another one."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway import bus, ledger, repeats
from gateway.app import Gateway
from gateway.cli import ANSWER_SECONDS
from gateway.database import Database, open_database
from gateway.errors import Unavailable
from gateway.handovers import Handovers
from gateway.live import Live
from gateway.model import Order
from gateway.money import Money
from tests.harness import PATH, add_account, config_directory, environment
from tests.simulators import handler_api
from tests.simulators._handler_engine import HandlerApi
from tests.simulators._serve import serve
from tests.wire import on_a_socket

PATIENCE_SECONDS = 20.0
SLOW_SECONDS = 2.0
UPSTREAM = """
[one]
adapter = "handler_api"
base_url = "{base}/stubs/handler_api.php"
rents = true
adds_services = true
poll_seconds = 0.2
status_calls_per_second = 50.0
"""
SHORT_CLAIM = "[activations]\nclaim_seconds = 0.5\n"
BUYS = "getNumberV2"
"""What the upstream is asked for a number with."""

NO_REDIS = "redis://127.0.0.1:9/0"


@dataclass
class Member:
    """One process, as far as that can be had in this one: a gateway with its own store, on a socket of its own."""

    gateway: Gateway
    database: Database
    port: int

    @property
    def name(self) -> str:
        return self.gateway.name

    def stop_noting(self) -> None:
        """From now on it writes down by itself neither who has its answer nor who has hung up."""
        self.gateway.worker._tasks["answered"].cancel()


@dataclass
class Several:
    """Processes on one database, and a client's key."""

    one: HandlerApi
    members: list[Member]
    key: str

    async def rows(self, sql: str) -> list[dict[str, Any]]:
        return await self.members[0].database.store.read(lambda tx: [dict(row) for row in tx.all(sql)])

    async def bought(self) -> list[int]:
        """The activations that have had a number, oldest first."""
        return [
            row["id"] for row in await self.rows("select id from activations where upstream is not null order by id")
        ]

    async def leave(self, member: Member, request: bytes, verb: str = BUYS) -> None:
        """Sends a request and hangs up once the upstream has got the order."""
        before = self.one.requests[verb]
        async with asking(member, request):
            await until(lambda: self.one.requests[verb] > before)

    async def is_put_up(self) -> None:
        """Waits until the database says that somebody has hung up."""
        await until_any(lambda: self.rows("select id from activations where claim_until is not null"))

    async def waits_at(self, member: Member) -> None:
        """Waits until an order under way is for a client of that process."""

        async def is_so() -> bool:
            return {"served_by": member.name} in await self.rows("select served_by from activations")

        await until_any(is_so)

    def number_request(self, **more: object) -> bytes:
        return action(self.key, "getNumber", service="tg", country=6, **more)


def action(key: str, name: str, **more: object) -> bytes:
    query = urlencode({"api_key": key, "action": name, **more})
    return f"GET {PATH}?{query} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n".encode()


def rest(key: str, path: str, body: dict[str, object], *headers: str) -> bytes:
    text = json.dumps(body)
    lines = [f"POST /api/v1{path} HTTP/1.1", "Host: gateway", "Connection: close", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {key}", f"Content-Length: {len(text)}", *headers]
    return ("\r\n".join([*lines, "", text])).encode()


def five(key: str) -> bytes:
    path = "/v1/user/buy/activation/indonesia/any/telegram"
    return f"GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


async def ask(member: Member, request: bytes) -> str:
    """The answer, without its head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", member.port)
    writer.write(request)
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.partition(b"\r\n\r\n")[2].decode()


@asynccontextmanager
async def asking(member: Member, request: bytes) -> AsyncIterator[None]:
    """A client that has sent its request, and hangs up at the end."""
    _, writer = await asyncio.open_connection("127.0.0.1", member.port)
    writer.write(request)
    yield
    writer.close()
    await writer.wait_closed()


def id_in(answer: str) -> int:
    found = re.search(r"1\d{8}(?!\d)", answer)
    assert found is not None, answer
    return int(found.group())


async def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def until_any(found: Callable[[], Awaitable[object]]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await found():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def until_heard(redis_url: str, member: Member, number: int) -> None:
    """Waits until so many processes hear what is said."""
    assert member.gateway._bus is not None
    channel = member.gateway._bus._channel
    async with Redis.from_url(redis_url) as redis:
        await until_any(lambda: _is_heard(redis, channel, number))


async def _is_heard(redis: Redis, channel: str, number: int) -> bool:
    return dict(await redis.pubsub_numsub(channel))[channel.encode()] == number


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is asked who has left answers here, however slow the machine."""
    monkeypatch.setattr(bus, "ASK_SECONDS", PATIENCE_SECONDS)


@asynccontextmanager
async def several(
    tmp_path: Path, url: str, redis_url: str, gateway: str = "", *, number: int = 2
) -> AsyncIterator[Several]:
    """Processes that know the price list and hear each other, where there is a Redis to hear by."""
    async with AsyncExitStack() as stack:
        app = handler_api.build(brand="generic", early_cancel_seconds=0, sms_delay_seconds=None)
        base = stack.enter_context(serve(app))
        values = environment(url, REDIS_URL=redis_url, ONE_API_KEY=handler_api.DEFAULT_KEY)
        directory = config_directory(tmp_path, UPSTREAM.format(base=base), gateway)
        members, key = [], ""
        for _ in range(number):
            database = await asyncio.to_thread(open_database, values, answer_seconds=ANSWER_SECONDS)
            made = Gateway(directory, values, database)
            key = key or await add_account(database, is_demo=False)
            await made.start()
            stack.push_async_callback(made.stop)
            members.append(Member(made, database, await stack.enter_async_context(on_a_socket(made))))
        order = Order("tg", 6, price_max=Money(10_000_000, "USD"))
        for member in members:
            caller = await member.gateway.callers.caller(key)
            market = member.gateway.house.market
            await until(lambda market=market, caller=caller: bool(market.shortlist(caller, order).ranked))  # type: ignore[misc]
        if redis_url != NO_REDIS:
            await until_heard(redis_url, members[0], number)
        found = Several(app.state.sim, members, key)
        yield found
        assert await members[0].database.store.read(ledger.verify) == []


@pytest.mark.parametrize("dialect", ["handler", "rest", "five"])
async def test_a_repeat_elsewhere_gets_the_purchase_that_is_under_way(
    dialect: str, tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    """At once, before anything was written down: the process that is at it is asked."""
    async with several(tmp_path, postgres_url, redis_url, SHORT_CLAIM) as at:
        a, b = at.members
        wanted = {
            "handler": at.number_request(),
            "rest": rest(at.key, "/purchase", {"service": "tg", "country": "ID"}),
            "five": five(at.key),
        }[dialect]
        a.stop_noting()
        at.one.fault("buy.slow", 1, seconds=SLOW_SECONDS)
        await at.leave(a, wanted)
        answer = await ask(b, wanted)
        assert [id_in(answer)] == await at.bought()
        assert at.one.purchases == 1
        assert id_in(await ask(a, wanted)) != id_in(answer)
        assert at.one.purchases == 2
        await asyncio.sleep(1.2)  # twice as long as anything waits to be asked for
        row, _ = await at.rows("select status, answered, claim_until from activations order by id")
        assert row == {"status": "waiting", "answered": 1, "claim_until": None}


async def test_what_nobody_was_told_of_yet_is_asked_for_too(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    """The purchase is over, its client is gone, and the batch that says so is not written yet."""
    async with several(tmp_path, postgres_url, redis_url) as at:
        a, b = at.members
        a.stop_noting()
        at.one.fault("buy.slow", 1, seconds=0.3)
        await at.leave(a, at.number_request())
        await until(lambda: bool(a.gateway.handovers._put_up))
        assert [id_in(await ask(b, at.number_request()))] == await at.bought()
        assert at.one.purchases == 1


async def test_without_redis_it_is_had_once_it_is_written_down(tmp_path: Path, postgres_url: str) -> None:
    async with several(tmp_path, postgres_url, NO_REDIS) as at:
        a, b = at.members
        at.one.fault("buy.slow", 1, seconds=SLOW_SECONDS)
        await at.leave(a, at.number_request())
        await at.is_put_up()
        assert [id_in(await ask(b, at.number_request()))] == await at.bought()
        assert at.one.purchases == 1


async def test_where_nobody_answers_a_repeat_buys_anew_and_nothing_is_lost(tmp_path: Path, postgres_url: str) -> None:
    async with several(tmp_path, postgres_url, NO_REDIS, SHORT_CLAIM) as at:
        a, b = at.members
        a.stop_noting()
        at.one.fault("buy.slow", 1, seconds=SLOW_SECONDS)
        await at.leave(a, at.number_request())
        second = id_in(await ask(b, at.number_request()))
        await until(lambda: bool(a.gateway.handovers._put_up))
        first, other = await at.bought()
        assert second == other != first
        await a.gateway.handovers.note_answered()
        await until(lambda: sorted(order.state for order in at.one.orders.values()) == ["cancelled", "waiting"])


async def test_a_repeat_at_the_process_itself_gets_what_it_has_put_up(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    async with several(tmp_path, postgres_url, redis_url, number=1) as at:
        (a,) = at.members
        at.one.fault("buy.slow", 1, seconds=SLOW_SECONDS)
        await at.leave(a, at.number_request())
        await at.is_put_up()
        assert [id_in(await ask(a, at.number_request()))] == await at.bought()
        assert at.one.purchases == 1


async def test_of_two_repeats_one_gets_it_and_the_other_its_own(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    async with several(tmp_path, postgres_url, redis_url, number=3) as at:
        a, b, c = at.members
        at.one.fault("buy.slow", 1, seconds=SLOW_SECONDS)
        await at.leave(a, at.number_request())
        answers = await asyncio.gather(ask(b, at.number_request()), ask(c, at.number_request()))
        assert sorted(id_in(answer) for answer in answers) == await at.bought()
        assert at.one.purchases == 2


async def test_parallel_clients_that_stay_get_a_number_each(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    async with several(tmp_path, postgres_url, redis_url) as at:
        at.one.fault("buy.slow", seconds=0.5)
        answers = await asyncio.gather(*(ask(at.members[turn % 2], at.number_request()) for turn in range(10)))
        assert sorted(id_in(answer) for answer in answers) == await at.bought()
        assert len({answer.split(":")[2] for answer in answers}) == 10
        assert at.one.purchases == 10


async def test_a_repeat_of_what_is_refused_hears_why(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    async with several(tmp_path, postgres_url, redis_url) as at:
        a, b = at.members
        at.one.fault("buy.slow", 1, commit=False, seconds=SLOW_SECONDS)
        at.one.fault("sold_out")
        await at.leave(a, at.number_request())
        repeat = asyncio.create_task(ask(b, at.number_request()))
        await at.waits_at(b)
        assert await repeat == "NO_NUMBERS"
        assert at.one.requests[BUYS] == 1
        assert [row["status"] for row in await at.rows("select status from activations")] == ["failed"]


async def test_a_repeat_that_hangs_up_too_leaves_it_to_the_next(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    async with several(tmp_path, postgres_url, redis_url, number=3) as at:
        a, b, c = at.members
        at.one.fault("buy.slow", 1, seconds=1.5 * SLOW_SECONDS)
        await at.leave(a, at.number_request())
        async with asking(b, at.number_request()):
            await at.waits_at(b)
        assert [id_in(await ask(c, at.number_request()))] == await at.bought()
        assert at.one.purchases == 1


async def test_what_everybody_has_left_is_given_back(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    async with several(tmp_path, postgres_url, redis_url, SHORT_CLAIM) as at:
        a, b = at.members
        at.one.fault("buy.slow", 1, seconds=SLOW_SECONDS)
        await at.leave(a, at.number_request())
        async with asking(b, at.number_request()):
            await at.waits_at(b)
        await until(lambda: [order.state for order in at.one.orders.values()] == ["cancelled"])
        assert at.one.purchases == 1


async def test_an_idempotency_key_means_the_same_as_before(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    async with several(tmp_path, postgres_url, redis_url) as at:
        a, b = at.members
        wanted = rest(at.key, "/purchase", {"service": "tg", "country": "ID"}, "Idempotency-Key: once")
        at.one.fault("buy.slow", 1, seconds=SLOW_SECONDS)
        await at.leave(a, wanted)
        await at.is_put_up()
        assert "in_progress" in await ask(b, wanted)
        first = await ask(a, wanted)
        assert [id_in(first)] == await at.bought()
        assert await ask(b, wanted) == first
        assert at.one.purchases == 1


async def test_rentals_and_more_time_for_them_are_bought_once(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    async with several(tmp_path, postgres_url, redis_url) as at:
        a, b = at.members
        wanted = action(at.key, "getRentNumber", service="tg", country=6, rent_time=4)
        at.one.fault("rent.slow", 1, seconds=SLOW_SECONDS)
        await at.leave(a, wanted, "getRentNumber")
        rented = json.loads(await ask(b, wanted))["phone"]
        (rental,) = at.one.rents.rentals.values()
        longer = action(at.key, "continueRentNumber", id=rented["id"], rent_time=4)
        ends = [rented["endDate"]]
        for repeats in (1, 2):
            at.one.fault("extend.slow", 1, seconds=SLOW_SECONDS)
            await at.leave(a, longer, "continueRentNumber")
            ends.append(json.loads(await ask(b, longer))["phone"]["endDate"])
            assert len(rental.extensions) == repeats
        assert ends == sorted(set(ends))


async def test_several_services_on_one_number_are_bought_once(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    async with several(tmp_path, postgres_url, redis_url) as at:
        a, b = at.members
        wanted = action(at.key, "getMultiServiceNumber", multiService="tg,wa", country=6)
        at.one.fault("buy.slow", 1, seconds=SLOW_SECONDS)
        await at.leave(a, wanted)
        answer = json.loads(await ask(b, wanted))
        assert [int(row["activation"]) for row in answer] == await at.bought()
        assert at.one.purchases == 2


async def test_several_services_that_were_left_halfway_are_never_on_two_numbers(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    async with several(tmp_path, postgres_url, redis_url) as at:
        a, b = at.members
        wanted = action(at.key, "getMultiServiceNumber", multiService="tg,wa", country=6)
        at.one.fault("beside.slow", 1, seconds=SLOW_SECONDS)
        await at.leave(a, wanted, "getAdditionalService")
        await asyncio.sleep(0.5)  # what its clients have left is written down twice meanwhile
        anew = json.loads(await ask(b, wanted))
        await until(lambda: len(a.gateway.handovers._put_up) == 2)
        await a.gateway.handovers.note_answered()
        left = json.loads(await ask(b, wanted))
        for answer in (anew, left):
            assert len({row["phone"] for row in answer}) == 1
        assert len({row["phone"] for row in anew + left}) == 2
        assert sorted(int(row["activation"]) for row in anew + left) == await at.bought()
        assert at.one.purchases == 4


async def test_what_was_taken_and_could_not_be_told_is_put_up_again(
    tmp_path: Path, postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It has to be found in the database: no process hears of what another one has put up.
    monkeypatch.setattr(Handovers, "offer", lambda *_what: None)
    async with several(tmp_path, postgres_url, redis_url) as at:
        a, b = at.members
        at.one.fault("buy.slow", 1, seconds=SLOW_SECONDS)
        await at.leave(a, at.number_request())
        await until_any(lambda: at.rows("select id from activations where claim_until > 0 and status = 'waiting'"))

        async def unreadable(_self: Handovers, _activation_id: int) -> Live:
            raise Unavailable

        b.stop_noting()
        with monkeypatch.context() as patched:
            patched.setattr(Handovers, "_brought_in", unreadable)
            assert await ask(b, at.number_request()) == "ERROR_SQL"
        assert [id_in(await ask(b, at.number_request()))] == await at.bought()
        assert at.one.purchases == 1


async def test_one_that_can_not_be_read_keeps_no_other_from_being_known_elsewhere(
    tmp_path: Path, postgres_url: str
) -> None:
    async with several(tmp_path, postgres_url, NO_REDIS) as at:
        a, b = at.members
        broken, whole = [id_in(await ask(a, at.number_request())) for _ in range(2)]
        await at.members[0].database.store.run(
            lambda tx: tx.execute("update activations set number_sealed = 'x' where id = :id", id=broken)
        )
        feed = b.gateway._feed
        assert feed is not None
        with capture_logs() as entries:
            assert [live.id for live in await feed._load([broken, whole])] == [whole]
        assert [(entry["activation"], entry["work"]) for entry in entries] == [(broken, "follow")]


async def test_the_last_number_goes_to_whoever_repeats_the_request(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    async with several(tmp_path, postgres_url, redis_url) as at:
        a, b = at.members
        at.one.fault("buy.slow", 1, seconds=SLOW_SECONDS)
        await at.leave(a, at.number_request())
        for member in at.members:
            member.gateway.house.market.drain(["one"])
        assert [id_in(await ask(b, at.number_request()))] == await at.bought()
        assert at.one.purchases == 1


async def test_of_three_clients_in_a_row_the_last_one_is_told(tmp_path: Path, postgres_url: str) -> None:
    async with several(tmp_path, postgres_url, NO_REDIS, number=1) as at:
        (a,) = at.members
        a.stop_noting()
        at.one.fault("buy.slow", 1, seconds=1.5 * SLOW_SECONDS)
        await at.leave(a, at.number_request())
        ((pending,),) = a.gateway.handovers._pending.values()
        await until(lambda: pending.is_gone())
        async with asking(a, at.number_request()):
            await until(lambda: not pending.is_gone())
        await until(lambda: pending.is_gone())
        assert [id_in(await ask(a, at.number_request()))] == await at.bought()
        assert at.one.purchases == 1
        assert not a.gateway.handovers._unclaimed
        assert not a.gateway.handovers._put_up


async def test_what_could_not_be_written_down_at_first_is_not_bought_twice(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with several(tmp_path, postgres_url, NO_REDIS, number=1) as at:
        (a,) = at.members
        failures = []

        def put_up(*_what: object) -> None:
            failures.append(1)
            raise Unavailable

        at.one.fault("buy.slow", 1, seconds=SLOW_SECONDS)
        with monkeypatch.context() as patched:
            patched.setattr(repeats, "put_up", put_up)
            await at.leave(a, at.number_request())
            await until(lambda: bool(failures))
            a.stop_noting()
        assert [id_in(await ask(a, at.number_request()))] == await at.bought()
        assert at.one.purchases == 1
