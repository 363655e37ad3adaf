"""Every adapter that rents out or hands numbers out again, in a running gateway, against its simulator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.accounts import Caller
from gateway.errors import NotAllowedNow
from gateway.live import Live
from gateway.model import Order, Product, Status
from tests.contract._pair import RENT_PRICE, RENT_STOCK
from tests.contract.test_rentals import RENTING, REUSING
from tests.journeys.test_every_upstream import PATIENCE_SECONDS, Stage, staged

CREDIT = 10_000_000


@pytest.fixture
async def renting(request: pytest.FixtureRequest, tmp_path: Path, sqlite_url: str) -> AsyncIterator[Stage]:
    async with staged(request.param, tmp_path, sqlite_url) as made:
        assert made.pair.rented is not None
        made.sim.set_rent_stock(**made.pair.rented.shelf, price=RENT_PRICE, count=RENT_STOCK)
        yield made


@pytest.fixture
async def reusing(request: pytest.FixtureRequest, tmp_path: Path, sqlite_url: str) -> AsyncIterator[Stage]:
    async with staged(request.param, tmp_path, sqlite_url) as made:
        yield made


over_renting = pytest.mark.parametrize("renting", list(RENTING.values()), ids=list(RENTING), indirect=True)
over_reusing = pytest.mark.parametrize("reusing", list(REUSING.values()), ids=list(REUSING), indirect=True)


async def caller_of(stage: Stage) -> Caller:
    return await stage.house.gateway.callers.caller(stage.house.keys["alice"])


def here() -> bool:
    return False


async def rented(stage: Stage, caller: Caller) -> Live:
    rented = stage.pair.rented
    assert rented is not None
    service = rented.service or stage.pair.service
    order = Order(service, stage.pair.country, fingerprint="rent", product=Product.RENTAL, hours=rented.hours)
    return await stage.house.gateway.rentals.open(caller, order, here)


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE_SECONDS / 0.05)):
        if is_so():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never was")


@over_renting
async def test_rental_is_had_its_messages_read_and_finished(renting: Stage) -> None:
    stage, caller = renting, await caller_of(renting)
    rentals = stage.house.gateway.rentals
    assert stage.pair.country in await rentals.countries(caller)
    live = await rented(stage, caller)
    price = live.price_micros
    assert price >= 2_400_000
    assert await stage.house.balance() == (CREDIT - price, price)
    (made,) = stage.sim.rental_views()
    for text in ("Your code is 12345", "Your code is 67890"):
        stage.sim.deliver_rental(made["id"], text)
    await until(lambda: len(live.messages) == 2)
    assert live.status is Status.RECEIVED
    assert await stage.house.balance() == (CREDIT - price, 0)
    assert (await rentals.finish(caller, live.id)).status is Status.FINISHED
    assert await stage.house.problems() == []


@over_renting
async def test_rental_without_a_message_is_given_back_where_that_can_be(renting: Stage) -> None:
    stage, caller = renting, await caller_of(renting)
    before = stage.sim.balance
    live = await rented(stage, caller)
    rentals = stage.house.gateway.rentals
    if stage.pair.rented is not None and stage.pair.rented.is_returnable:
        assert (await rentals.cancel(caller, live.id)).status is Status.CANCELLED
        assert await stage.house.balance() == (CREDIT, 0)
        assert stage.sim.balance == before
    else:
        with pytest.raises(NotAllowedNow):
            await rentals.cancel(caller, live.id)
    assert await stage.house.problems() == []


@over_renting
async def test_lost_rental_is_found_or_costs_the_caller_nothing(renting: Stage) -> None:
    stage, caller = renting, await caller_of(renting)
    stage.sim.fault("rent.drop", 1)
    if stage.pair.rented is None or not stage.pair.rented.tells_goods:
        pytest.skip("a rental found does not tell what it is of")
    live = await rented(stage, caller)
    (made,) = stage.sim.rental_views()
    assert live.number == made["phone"].lstrip("+")
    assert await stage.house.problems() == []


@over_renting
async def test_rental_is_prolonged(renting: Stage) -> None:
    if stage_cannot_extend(renting):
        pytest.skip("this upstream extends no rental")
    stage, caller = renting, await caller_of(renting)
    live = await rented(stage, caller)
    rentals, ended_at = stage.house.gateway.rentals, live.expires_at
    stage.sim.fault("extend.drop", 1)
    assert stage.pair.rented is not None
    hours = stage.pair.rented.extension_hours
    order = Order("", 0, fingerprint="more", product=Product.EXTENSION, hours=hours, parent_id=live.id)
    await rentals.extend(caller, order, here)
    assert live.expires_at == pytest.approx(ended_at + hours * 3600, abs=120)
    assert stage.sim.rental_views()[0]["extensions"] == 1
    assert await stage.house.problems() == []


def stage_cannot_extend(stage: Stage) -> bool:
    rented = stage.pair.rented
    return rented is None or not rented.is_extensible or not rented.tells_end


@over_reusing
async def test_number_is_had_again(reusing: Stage) -> None:
    stage, caller = reusing, await caller_of(reusing)
    activation = int(await stage.buy())
    stage.sim.deliver(str(stage.order()["id"]), "Your code is 12345")
    await stage.house.until(str(activation), "STATUS_OK", PATIENCE_SECONDS)
    assert await stage.house.call("setStatus", id=activation, status=6) == "ACCESS_ACTIVATION"
    await stage.house.gateway.activations.close_upstream()
    rentals = stage.house.gateway.rentals
    offer = await rentals.extra_offer(caller, activation)
    assert offer.price.micros == 500_000
    order = Order(
        stage.pair.service, stage.pair.country, fingerprint="again", product=Product.AGAIN, parent_id=activation
    )
    again = await rentals.open_extra(caller, order, here)
    assert again.number == offer.number
    stage.sim.deliver(again.reference, "Your code is 67890")
    await until(lambda: bool(again.messages))
    assert await stage.house.balance() == (CREDIT - 1_000_000, 0)
    assert await stage.house.problems() == []
