"""Purchases gone wrong, with simulators on real sockets: replies lost, clients gone, prices off, early cancels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from gateway.model import Order
from gateway.money import Money
from tests.harness import PATH, House, config_directory, environment, house
from tests.simulators import handler_api
from tests.simulators._handler_engine import HandlerApi
from tests.simulators._serve import serve
from tests.wire import on_a_socket

ONE_PRICE, TWO_PRICE = 300_000, 400_000
TEN = 10_000_000


@dataclass
class Shop:
    """A gateway with its loops, and the upstreams it buys from: `one` is the cheaper."""

    house: House
    one: HandlerApi
    two: HandlerApi

    async def rows(self, sql: str) -> list[dict[str, Any]]:
        return await self.house.database.store.read(lambda tx: [dict(row) for row in tx.all(sql)])

    async def attempts(self) -> list[str]:
        """`upstream state` of every attempt there was."""
        rows = await self.rows("select upstream, state from attempts order by id")
        return [f"{row['upstream']} {row['state']}" for row in rows]

    async def metric(self, line: str) -> bool:
        """Whether the metrics show this line, once the exposure has been looked at."""
        await self.house.gateway.settling.settle()
        return line in (await self.house.client.get("/metrics")).text.splitlines()

    async def is_paid(self, available: int, held: int) -> None:
        assert await self.house.balance() == (available, held)
        assert await self.house.problems() == []

    def states(self, sim: HandlerApi) -> list[str]:
        return [order.state for order in sim.orders.values()]


def stanza(name: str, base: str, brand: str, more: str) -> str:
    adapter = "herosms" if brand == "herosms" else "handler_api"
    return (
        f'[{name}]\nadapter = "{adapter}"\nbase_url = "{base}/stubs/handler_api.php"\npoll_seconds = 0.1\n'
        f"status_calls_per_second = 50.0\n{more}\n"
    )


@asynccontextmanager
async def shop(
    tmp_path: Path,
    url: str,
    *,
    brand: str = "herosms",
    gateway: str = "",
    early_cancel_seconds: float = 0,
    stanza_more: str = "",
    number_of_upstreams: int = 2,
) -> AsyncIterator[Shop]:
    """`one` is of the brand given, `two` lists its open orders; both are reached and their prices are known."""
    with ExitStack() as stack:
        sims, stanzas = [], ""
        brands = (("one", brand, ONE_PRICE), ("two", "herosms", TWO_PRICE))
        for name, kind, price in brands:
            app = handler_api.build(brand=kind, early_cancel_seconds=early_cancel_seconds, sms_delay_seconds=None)
            sims.append(app.state.sim)
            for country in (6, 22):
                app.state.sim.restock(service="tg", country=country, price=price / 1e6)
            if len(sims) <= number_of_upstreams:
                stanzas += stanza(name, stack.enter_context(serve(app)), kind, stanza_more)
        key = handler_api.DEFAULT_KEY
        values = environment(url, ONE_API_KEY=key, TWO_API_KEY=key)
        directory = config_directory(tmp_path, stanzas, gateway)
        async with house(directory, values, is_demo=False) as running:
            caller = await running.gateway.callers.caller(running.keys["alice"])
            order = Order("tg", 6, price_max=Money(TEN, "USD"))
            market = running.gateway.house.market
            await until(lambda: len(market.shortlist(caller, order).ranked) == number_of_upstreams)
            yield Shop(running, *sims)


async def until(is_so: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def until_it(is_so: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not await is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


# The reply is lost


async def test_a_number_whose_reply_was_lost_is_found_and_handed_over(tmp_path: Path, database_url: str) -> None:
    async with shop(tmp_path, database_url) as at:
        at.one.fault("buy.drop", 1)
        activation_id = await at.house.buy("tg", 6)
        assert (at.one.purchases, at.two.purchases) == (1, 0)
        assert at.one.requests["getNumberV2"] == 1
        assert await at.attempts() == ["one leased"]
        (row,) = await at.rows("select id, reference from activations")
        assert row["reference"] in at.one.open
        assert row["id"] == int(activation_id)
        await at.is_paid(TEN - ONE_PRICE, ONE_PRICE)
        await at.house.buy("tg", 6)  # the place is not left out of routing
        assert at.one.purchases == 2


async def test_a_reply_that_makes_no_sense_is_looked_up_as_well(tmp_path: Path, sqlite_url: str) -> None:
    async with shop(tmp_path, sqlite_url) as at:
        for number, fault in enumerate(("buy.html", "buy.truncated", "buy.bad_gateway", "buy.error"), 1):
            at.one.fault(fault, 1)
            await at.house.buy("tg", 6)
            assert (at.one.purchases, at.two.purchases) == (number, 0), fault


async def test_where_nobody_can_be_asked_the_attempt_stays_in_doubt(tmp_path: Path, database_url: str) -> None:
    async with shop(tmp_path, database_url, brand="generic", number_of_upstreams=1) as at:
        at.one.fault("buy.drop", 1)
        assert await at.house.call("getNumber", service="tg", country=6) == "NO_NUMBERS"
        await at.is_paid(TEN, 0)
        assert await at.attempts() == ["one in_doubt"]
        for _ in range(2):  # out of routing, before and after the loop has been over it
            assert await at.house.call("getNumber", service="tg", country=6) == "NO_NUMBERS"
            assert await at.metric('simroute_attempts_in_doubt{upstream="one"} 1.0')
        assert at.one.requests["getNumberV2"] == 1
        assert await at.metric('simroute_exposure_amount{currency="USD",upstream="one"} 0.3')
        await at.house.buy("tg", 22)  # another country there is not in doubt
        assert at.one.purchases == 2


async def test_in_doubt_means_the_next_order_goes_elsewhere(tmp_path: Path, sqlite_url: str) -> None:
    async with shop(tmp_path, sqlite_url, brand="generic") as at:
        at.one.fault("buy.drop", 1)
        await at.house.buy("tg", 6, maxPrice="0.5")
        assert await at.attempts() == ["one in_doubt", "two leased"]
        await at.is_paid(TEN - TWO_PRICE, TWO_PRICE)
        await at.house.buy("tg", 6)
        assert await at.attempts() == ["one in_doubt", "two leased", "two leased"]
        assert (at.one.purchases, at.two.purchases) == (1, 2)


async def test_two_numbers_that_may_be_either_orders_are_adopted_by_none(tmp_path: Path, sqlite_url: str) -> None:
    async with shop(tmp_path, sqlite_url, number_of_upstreams=1) as at:
        at.one.fault("buy.drop", 2)
        buys = [at.house.call("getNumber", service="tg", country=6) for _ in range(2)]
        answers = await asyncio.gather(*buys)
        assert at.one.purchases == 2
        assert len({answer.split(":")[1] for answer in answers if answer != "NO_NUMBERS"}) == sum(
            answer != "NO_NUMBERS" for answer in answers
        )
        held = ONE_PRICE * sum(answer != "NO_NUMBERS" for answer in answers)
        await at.is_paid(TEN - held, held)


# The client that hangs up


async def leave(port: int, key: str, has_bought: Callable[[], bool], **more: object) -> None:
    """Asks for a number and hangs up once the upstream has sold one."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(key, **more))
    await until(has_bought)
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.05)


def request(key: str, **more: object) -> bytes:
    query = urlencode({"api_key": key, "action": "getNumber", "service": "tg", "country": 6, **more})
    return f"GET {PATH}?{query} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n".encode()


async def ask(port: int, key: str, **more: object) -> str:
    """Asks for a number and waits for the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(key, **more))
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.partition(b"\r\n\r\n")[2].decode()


async def test_the_identical_request_gets_the_number_of_a_client_that_hung_up(
    tmp_path: Path, database_url: str
) -> None:
    async with shop(tmp_path, database_url) as at, on_a_socket(at.house.gateway) as port:
        key = at.house.keys["alice"]
        at.one.fault("buy.slow", 1, seconds=0.5)
        await leave(port, key, lambda: at.one.purchases == 1)
        await asyncio.sleep(0.8)  # the purchase has come to its end, with nobody there
        answer = await ask(port, key)
        assert answer.startswith("ACCESS_NUMBER:")
        assert at.one.purchases == 1
        await at.is_paid(TEN - ONE_PRICE, ONE_PRICE)
        assert (await ask(port, key)).split(":")[1] != answer.split(":")[1]
        assert at.one.purchases == 2


async def test_a_client_that_repeats_while_the_first_is_still_buying_is_attached_to_it(
    tmp_path: Path, sqlite_url: str
) -> None:
    async with shop(tmp_path, sqlite_url) as at, on_a_socket(at.house.gateway) as port:
        key = at.house.keys["alice"]
        at.one.fault("buy.slow", 1, seconds=1.0)
        for _ in range(2):  # gives up twice
            await leave(port, key, lambda: at.one.purchases == 1)
        started = time.monotonic()
        answer = await ask(port, key)
        assert answer.startswith("ACCESS_NUMBER:")
        assert time.monotonic() - started > 0.3  # it waited for the purchase that was under way
        assert at.one.purchases == 1
        assert await at.attempts() == ["one leased"]
        await at.is_paid(TEN - ONE_PRICE, ONE_PRICE)


async def test_a_different_request_gets_another_number(tmp_path: Path, sqlite_url: str) -> None:
    async with shop(tmp_path, sqlite_url) as at, on_a_socket(at.house.gateway) as port:
        key = at.house.keys["alice"]
        at.one.fault("buy.slow", 1, seconds=0.4)
        await leave(port, key, lambda: at.one.purchases == 1)
        assert (await ask(port, key, maxPrice="0.31")).startswith("ACCESS_NUMBER:")
        assert at.one.purchases == 2
        await asyncio.sleep(0.5)
        await at.is_paid(TEN - 2 * ONE_PRICE, 2 * ONE_PRICE)


async def test_identical_requests_of_clients_that_stay_buy_one_number_each(tmp_path: Path, sqlite_url: str) -> None:
    async with shop(tmp_path, sqlite_url) as at, on_a_socket(at.house.gateway) as port:
        at.one.fault("buy.slow", seconds=0.3)
        answers = await asyncio.gather(*(ask(port, at.house.keys["alice"]) for _ in range(3)))
        assert len({answer.split(":")[1] for answer in answers}) == 3
        assert at.one.purchases == 3


async def test_a_number_nobody_asks_for_again_is_given_back(tmp_path: Path, database_url: str) -> None:
    claim = "[activations]\nclaim_seconds = 0.5\n"
    async with shop(tmp_path, database_url, gateway=claim) as at, on_a_socket(at.house.gateway) as port:
        key = at.house.keys["alice"]
        at.one.fault("buy.slow", 1, seconds=0.3)
        await leave(port, key, lambda: at.one.purchases == 1)
        await until(lambda: not at.one.open)
        assert at.states(at.one) == ["cancelled"]
        await until_it(lambda: _has(at, TEN, 0))
        await at.is_paid(TEN, 0)
        assert (await ask(port, key)).startswith("ACCESS_NUMBER:")
        assert at.one.purchases == 2


async def _has(at: Shop, available: int, held: int) -> bool:
    return await at.house.balance() == (available, held)


# Prices


async def test_a_number_above_the_cap_is_given_back_and_the_order_goes_on(tmp_path: Path, database_url: str) -> None:
    async with shop(tmp_path, database_url) as at:
        at.one.fault("overpriced", 1, price="0.9")
        await at.house.buy("tg", 6, maxPrice="0.45")
        assert (at.one.purchases, at.two.purchases) == (1, 1)
        await at.is_paid(TEN - TWO_PRICE, TWO_PRICE)
        await until(lambda: not at.one.open)
        assert at.states(at.one) == ["cancelled"]
        await until_it(lambda: _is(at.attempts, ["one cancelled", "two leased"]))


async def _is(read: Callable[[], Awaitable[list[str]]], wanted: list[str]) -> bool:
    return await read() == wanted


async def test_without_a_cap_the_listed_price_is_the_ceiling(tmp_path: Path, database_url: str) -> None:
    async with shop(tmp_path, database_url) as at:
        assert '"cost":0.3,' in await at.house.call("getPrices", service="tg", country=6)
        at.one.fault("sold_out")
        assert await at.house.call("getNumber", service="tg", country=6) == "NO_NUMBERS"
        assert at.two.purchases == 0
        await at.house.buy("tg", 6, maxPrice="0.4")
        assert at.two.purchases == 1
        await at.is_paid(TEN - TWO_PRICE, TWO_PRICE)


async def test_what_became_cheaper_is_charged_cheaper(tmp_path: Path, sqlite_url: str) -> None:
    async with shop(tmp_path, sqlite_url) as at:
        at.one.restock(service="tg", country=6, price="0.25")
        await at.house.buy("tg", 6)
        await at.is_paid(TEN - 250_000, 250_000)


async def test_what_became_dearer_is_not_bought(tmp_path: Path, sqlite_url: str) -> None:
    async with shop(tmp_path, sqlite_url, number_of_upstreams=1) as at:
        at.one.restock(service="tg", country=6, price="0.35")
        assert await at.house.call("getNumber", service="tg", country=6) == "NO_NUMBERS"
        assert at.one.purchases == 0
        await at.is_paid(TEN, 0)


async def test_an_upstream_in_trouble_is_passed_over_under_the_same_ceiling(tmp_path: Path, sqlite_url: str) -> None:
    async with shop(tmp_path, sqlite_url) as at:
        for fault in ("sold_out", "no_balance", "banned", "bad_key", "channels_limit", "buy.rate_limit"):
            at.one.fault(fault, 1)
            before = at.two.purchases
            await at.house.buy("tg", 6, maxPrice="0.4")
            assert at.two.purchases == before + 1, fault
        assert at.one.purchases == 0
        await at.is_paid(TEN - 6 * TWO_PRICE, 6 * TWO_PRICE)


# A cancel meets something


async def test_a_cancel_that_meets_a_message_delivers_it(tmp_path: Path, database_url: str) -> None:
    async with shop(tmp_path, database_url) as at:
        activation_id = await at.house.buy("tg", 6)
        at.one.fault("sms_on_cancel", 1)
        assert await at.house.call("setStatus", id=activation_id, status=8) == "BAD_STATUS"
        assert await at.house.call("getStatus", id=activation_id) == "STATUS_OK:24680"
        await at.is_paid(TEN - ONE_PRICE, 0)


async def test_an_early_cancel_releases_the_caller_now_and_the_number_later(tmp_path: Path, database_url: str) -> None:
    async with shop(tmp_path, database_url, early_cancel_seconds=2) as at:
        activation_id = await at.house.buy("tg", 6)
        assert await at.house.call("setStatus", id=activation_id, status=8) == "ACCESS_CANCEL"
        assert await at.house.call("getStatus", id=activation_id) == "STATUS_CANCEL"
        await at.is_paid(TEN, 0)
        assert at.states(at.one) == ["waiting"]
        await until(lambda: at.states(at.one) == ["cancelled"])
        await at.is_paid(TEN, 0)


async def test_early_cancels_are_absorbed_up_to_a_cap(tmp_path: Path, sqlite_url: str) -> None:
    gateway = '[activations]\ncancel_exposure = "0.70"\n'
    async with shop(tmp_path, sqlite_url, gateway=gateway, early_cancel_seconds=2) as at:
        ids = [await at.house.buy("tg", 6) for _ in range(3)]
        answers = await asyncio.gather(*(at.house.call("setStatus", id=number, status=8) for number in ids))
        assert sorted(answers) == ["ACCESS_CANCEL", "ACCESS_CANCEL", "EARLY_CANCEL_DENIED"]
        await at.is_paid(TEN - ONE_PRICE, ONE_PRICE)
        (denied,) = [number for number, answer in zip(ids, answers, strict=True) if answer == "EARLY_CANCEL_DENIED"]
        assert await at.house.call("getStatus", id=denied) == "STATUS_WAIT_CODE"
        await until(lambda: at.states(at.one).count("cancelled") == 2)
        assert await at.house.call("setStatus", id=denied, status=8) == "ACCESS_CANCEL"
        await at.is_paid(TEN, 0)


async def test_an_upstream_may_be_set_to_deny_early_cancels(tmp_path: Path, sqlite_url: str) -> None:
    async with shop(tmp_path, sqlite_url, early_cancel_seconds=60, stanza_more='early_cancel = "deny"') as at:
        activation_id = await at.house.buy("tg", 6)
        assert await at.house.call("setStatus", id=activation_id, status=8) == "EARLY_CANCEL_DENIED"
        await at.is_paid(TEN - ONE_PRICE, ONE_PRICE)


async def test_a_message_after_the_release_is_kept_not_shown_and_the_houses_loss(
    tmp_path: Path, database_url: str
) -> None:
    async with shop(tmp_path, database_url, early_cancel_seconds=2) as at:
        activation_id = await at.house.buy("tg", 6)
        assert await at.house.call("setStatus", id=activation_id, status=8) == "ACCESS_CANCEL"
        (order,) = at.one.open
        at.one.deliver(order, "Your code is 13579")
        await until_it(lambda: _has_loss(at))
        assert await at.rows("select kind, debit, credit, amount from ledger where kind = 'loss'") == [
            {"kind": "loss", "debit": "upstream:one:float", "credit": "upstream:one:loss", "amount": ONE_PRICE}
        ]
        assert await at.rows("select is_shown from messages") == [{"is_shown": 0}]
        assert await at.house.call("getStatus", id=activation_id) == "STATUS_CANCEL"
        assert await at.house.call("getFullSms", id=activation_id) == "STATUS_CANCEL"
        await at.is_paid(TEN, 0)


async def _has_loss(at: Shop) -> bool:
    return bool(await at.rows("select id from ledger where kind = 'loss'"))


async def test_a_cancel_the_upstream_does_not_answer_releases_the_caller(tmp_path: Path, sqlite_url: str) -> None:
    deadline = "[activations]\ncancel_deadline_seconds = 0.3\n"
    async with shop(tmp_path, sqlite_url, gateway=deadline) as at:
        activation_id = await at.house.buy("tg", 6)
        at.one.fault("close.hang", 1, commit=False)
        assert await at.house.call("setStatus", id=activation_id, status=8) == "ACCESS_CANCEL"
        await at.is_paid(TEN, 0)
        await until(lambda: at.states(at.one) == ["cancelled"])
