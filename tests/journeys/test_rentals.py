"""Rentals on the sandbox, end to end: listed, rented, messages shown, prolonged, finished, given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import history, journal
from gateway.accounts import Caller
from gateway.app import Gateway
from gateway.errors import BadWebhookUrl, NotAllowedNow, PriceTooLow, UnknownActivation
from gateway.model import Order, Product, Status
from gateway.money import Money
from tests.harness import House, config_directory, environment, house

SANDBOX = '[sandbox]\nadapter = "sandbox"\nearly_cancel = "deny"\npoll_seconds = 0.1\nquick_seconds = 0.1\n'
PRICING = '[default]\nfixed = "0.12"\n[rental]\npercent = 100\n'


@pytest.fixture
async def made(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    directory = config_directory(tmp_path, SANDBOX, pricing=PRICING)
    async with house(directory, environment(database_url), balances={"alice": "10.00", "bob": "10.00"}) as running:
        yield running


async def caller_of(made: House, name: str = "alice") -> Caller:
    return await made.gateway.callers.caller(made.keys[name])


def rental(service: str = "full", hours: int = 24) -> Order:
    return Order(service, 6, fingerprint=f"rent {service}", product=Product.RENTAL, hours=hours)


def here() -> bool:
    return False


async def test_a_rental_is_listed_rented_prolonged_and_finished(made: House) -> None:
    rentals, caller = made.gateway.rentals, await caller_of(made)
    assert 6 in await rentals.countries(caller)
    rows = {row.service: row for row in await rentals.offers(caller, 6, 24)}
    assert (rows["full"].price, rows["full"].hours, rows["full"].count) == (Money(480_000, "USD"), 24, 20)
    live = await rentals.open(caller, rental(), here)
    assert (live.product, live.status, live.hours) == (Product.RENTAL, Status.WAITING, 24)
    assert live.expires_at - live.opened_at == pytest.approx(86_400, abs=2)
    assert await made.balance() == (10_000_000 - 480_000, 480_000)
    await _until(lambda: bool(live.messages))
    assert live.messages[0].sender
    assert live.status is Status.RECEIVED
    assert await made.balance() == (10_000_000 - 480_000, 0)
    assert [one.id for one in await rentals.rentals_of(caller, before=2**31, limit=10)] == [live.id]
    price, hours = await rentals.extension_price(caller, live.id, 10)
    assert (price, hours) == (Money(200_000, "USD"), 10)
    before = live.expires_at
    more = Order("", 0, fingerprint="more", product=Product.EXTENSION, hours=10, parent_id=live.id)
    assert await rentals.extend(caller, more, here) is live
    assert live.expires_at == before + 36_000
    assert [(one.hours, one.price) for one in await rentals.extensions(caller, live.id)] == [(10, price)]
    assert await made.balance() == (10_000_000 - 680_000, 0)
    assert (await rentals.finish(caller, live.id)).status is Status.FINISHED
    assert (await rentals.finish(caller, live.id)).status is Status.FINISHED
    with pytest.raises(NotAllowedNow):
        await rentals.cancel(caller, live.id)
    assert await made.problems() == []


async def test_a_rental_without_a_message_is_given_back(made: House) -> None:
    rentals, caller = made.gateway.rentals, await caller_of(made)
    live = await rentals.open(caller, rental("xmute"), here)
    for _ in range(2):
        assert (await rentals.cancel(caller, live.id)).status is Status.CANCELLED
    with pytest.raises(NotAllowedNow):
        await rentals.finish(caller, live.id)
    assert await made.balance() == (10_000_000, 0)
    assert await made.problems() == []


async def test_rentals_and_activations_are_strangers_to_each_other(made: House) -> None:
    gateway, caller, bob = made.gateway, await caller_of(made), await caller_of(made, "bob")
    live = await gateway.rentals.open(caller, rental("tg"), here)
    activation = int(await made.buy("tg", 6))
    assert await made.call("getStatus", id=live.id) == await made.call("getStatus", id=1)
    assert await made.call("setStatus", id=live.id, status=8) == await made.call("setStatus", id=1, status=8)
    for who, one in ((caller, activation), (bob, live.id), (caller, 1)):
        for verb in (gateway.rentals.get, gateway.rentals.finish, gateway.rentals.cancel, gateway.rentals.extensions):
            with pytest.raises(UnknownActivation):
                await verb(who, one)
        with pytest.raises(UnknownActivation):
            await gateway.rentals.extension_price(who, one, 24)
    assert str(live.id) not in await made.call("getActiveActivations")
    assert live.status.is_open
    await gateway.rentals.finish(caller, live.id)
    gateway.house.live._ended.clear()
    assert await made.call("getStatus", id=live.id) == await made.call("getStatus", id=1)
    assert (await gateway.rentals.get(caller, live.id)).status is Status.FINISHED
    assert await made.problems() == []


async def test_lists_of_activations_have_no_rentals_in_them(made: House) -> None:
    gateway, caller = made.gateway, await caller_of(made)
    activation = int(await made.buy("tg", 6))
    live = await gateway.rentals.open(caller, rental("tg"), here)
    more = Order("", 0, fingerprint="more", product=Product.EXTENSION, hours=10, parent_id=live.id, reference="mine")
    await gateway.rentals.extend(caller, more, here)
    assert [one.id for one in gateway.activations.open_of(caller)] == [activation]
    read, account = made.database.store.read, caller.account_id
    assert [one.id for one in await read(journal.page, made.database.vault, account)] == [activation]
    assert [row["id"] for row in await read(history.page, account, 0, 1e11, limit=10, offset=0)] == [activation]
    for newest_first in (True, False):
        assert await read(history.order_ids, account, 0, 10, newest_first=newest_first) == ([activation], 1)
    newest = await read(history.newest, account)
    assert newest is not None
    assert newest["id"] == activation
    assert [row["bought"] for row in await read(history.countries_of, account, "tg")] == [1]
    assert await read(history.id_of_order, account, "mine") is None
    (extension,) = [
        row["id"] for row in await read(lambda tx: tx.all("select id from activations where product = 'extension'"))
    ]
    with pytest.raises(UnknownActivation):
        await gateway.rentals.get(caller, extension)
    with pytest.raises(UnknownActivation):
        await gateway.activations.get(caller, extension)


async def test_nobody_builds_on_somebody_elses_number(made: House) -> None:
    rentals, bob = made.gateway.rentals, await caller_of(made, "bob")
    first = int(await made.buy("tg", 6))
    await made.until(str(first), "STATUS_OK")
    order = Order("wa", 6, fingerprint="b", parent_id=first)
    for _ in range(2):
        for ask in (
            rentals.extra_offer(bob, first),
            rentals.open_extra(bob, order, here),
            rentals.add_service(bob, order, here),
            rentals.extend(bob, order, here),
        ):
            with pytest.raises(UnknownActivation):
                await ask
        await made.gateway.activations.finish(await caller_of(made), first)


async def test_what_a_rental_may_cost_and_where_it_tells(made: House) -> None:
    rentals, caller = made.gateway.rentals, await caller_of(made)
    with pytest.raises(PriceTooLow):
        await rentals.open(caller, replace(rental(), price_max=Money(1000, "USD")), here)
    with pytest.raises(BadWebhookUrl):
        await rentals.open(caller, replace(rental(), webhook_url="https://127.0.0.1/x"), here)
    assert await made.balance() == (10_000_000, 0)


async def test_a_number_is_used_again_and_for_more_services(made: House) -> None:
    gateway: Gateway = made.gateway
    caller = await caller_of(made)
    first = int(await made.buy("tg", 6))
    live = await gateway.activations.get(caller, first)
    beside = await gateway.rentals.add_service(caller, Order("wa", 0, fingerprint="b", parent_id=first), here)
    assert (beside.number, beside.service, beside.product) == (live.number, "wa", Product.BESIDE)
    with pytest.raises(NotAllowedNow):
        await gateway.rentals.add_service(caller, Order("wa", 0, fingerprint="c", parent_id=first), here)
    with pytest.raises(NotAllowedNow):
        await gateway.rentals.extra_offer(caller, first)
    await made.until(str(first), "STATUS_OK")
    await gateway.activations.finish(caller, first)
    offer = await gateway.rentals.extra_offer(caller, first)
    assert (offer.price, offer.number) == (Money(120_000, "USD"), live.number)
    again = await gateway.rentals.open_extra(caller, Order("", 0, fingerprint="d", parent_id=first), here)
    assert (again.number, again.service, again.product, again.parent_id) == (live.number, "tg", Product.AGAIN, first)
    await made.until(str(again.id), "STATUS_OK")
    both = await gateway.rentals.open_many(
        caller, [Order(code, 6, fingerprint="m") for code in ("tg", "wa", "go")], here
    )
    assert len({one.number for one in both}) == 1
    assert [one.service for one in both] == ["tg", "wa", "go"]
    assert await made.problems() == []


async def _until(is_so: Callable[[], bool]) -> None:
    for _ in range(200):
        if is_so():
            return
        await asyncio.sleep(0.05)
    raise AssertionError
