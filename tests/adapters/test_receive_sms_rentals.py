"""Numbers of one's own rented out, used again, and leased for several services: on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from gateway.database import open_database
from gateway.errors import HasSms, InDoubt, NotAllowed, Refused, SoldOut, Unavailable, UnknownLease
from gateway.model import BuyOrder, Lease, LeaseState, Outcome, Watched
from gateway.money import Money
from gateway.upstream import AddsServices, Rents, Reuses
from tests.adapters._context import context, order
from tests.adapters.test_receive_sms import CATALOG, NOW, NUMBER, OTHER, SECRETS, Bench
from tests.harness import environment

HOUR = 3600.0
OPTIONS: Mapping[str, Any] = {
    "services": ["tg", "wa"],
    "rent_price_hour": "0.01",
    "rent_prices": {"wa": "0.02"},
    "rent_hours_max": 48,
}


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Bench]:
    database = open_database(environment(database_url))
    bench = Bench(database, options=OPTIONS)
    bench.there = build(bench)
    await bench.add(NUMBER)
    yield bench
    await database.store.close()


def build(bench: Bench, **changes: Any) -> Any:
    """The upstream with the shipped catalogue, which has `full`."""
    from adapters import receive_sms

    there = context(pool=bench.pool, clock=lambda: bench.now, secrets=SECRETS, names=CATALOG)
    return receive_sms.build(there, receive_sms.Options.model_validate({"price": "0.05", **OPTIONS, **changes}))


def rental(service: str = "full", hours: int = 24, **changes: Any) -> BuyOrder:
    return order(service, hours=hours, **changes)


async def finished(bench: Bench, lease: Lease) -> Lease:
    await bench.push("Telegram code 12345")
    await bench.there.close(lease.reference, Outcome.FINISHED)
    return lease


def of(lease: Lease, **changes: Any) -> BuyOrder:
    return order(lease_reference=lease.reference, lease_number=lease.number, **changes)


def test_it_rents_reuses_and_adds(bench: Bench) -> None:
    assert all(isinstance(bench.there, ability) for ability in (Rents, Reuses, AddsServices))


async def test_what_is_rented_out_and_for_how_much(bench: Bench) -> None:
    await bench.add(OTHER, services="+ tg ")
    assert set(await bench.there.rent_countries()) == {16}
    offers = {one.service: one for one in await bench.there.rent_offers(16, 1)}
    assert {code: (one.cost.micros, one.hours, one.count) for code, one in offers.items()} == {
        "full": (20_000, 2, 1),
        "tg": (20_000, 2, 2),
        "wa": (40_000, 2, 1),
    }
    assert await bench.there.rent_offers(6, 24) == []
    assert list(await bench.there.rent_offers(16, 49)) == []


async def test_without_a_price_nothing_is_rented_out(bench: Bench) -> None:
    there = build(bench, rent_price_hour=None, rent_prices={})
    assert list(await there.rent_countries()) == list(await there.rent_offers(16, 24)) == []
    with pytest.raises(Refused):
        await there.rent(rental())


async def test_a_rented_number_is_nobody_elses(bench: Bench) -> None:
    there = build(bench, shared=3)
    lease = await there.rent(rental())
    assert (lease.number, lease.cost, lease.expires_at) == (NUMBER, Money(240_000, "USD"), NOW + 24 * HOUR)
    for ask in (there.buy(order("tg")), there.rent(rental()), there.rent(rental("tg"))):
        with pytest.raises(SoldOut):
            await ask
    assert len(await there.offers()) == 0
    assert await there.rent_offers(16, 24) == []


async def test_a_number_in_use_is_not_rented(bench: Bench) -> None:
    there = build(bench, shared=3)
    await there.buy(order("tg"))
    with pytest.raises(SoldOut):
        await there.rent(rental())


async def test_every_message_is_the_tenants(bench: Bench) -> None:
    lease = await bench.there.rent(rental())
    for text in ("Telegram code 12345", "Your WhatsApp code: 123-456", "no digits at all"):
        (pushed,) = (await bench.push(text)).pushed
        assert pushed.reference == lease.reference
    state, texts = await bench.read(lease)
    assert (state, len(texts)) == (LeaseState.OPEN, 3)
    with pytest.raises(HasSms):
        await bench.there.close(lease.reference, Outcome.CANCELLED)


async def test_a_number_rented_for_one_service_gets_that_ones_messages(bench: Bench) -> None:
    lease = await bench.there.rent(rental("tg"))
    assert (await bench.push("Your WhatsApp code: 123-456")).pushed == ()
    await bench.push("Telegram code 12345")
    assert await bench.read(lease) == (LeaseState.OPEN, ["Telegram code 12345"])


async def test_a_number_others_have_accounts_with_is_not_rented_for_everything(bench: Bench) -> None:
    await finished(bench, await bench.there.buy(order("tg")))
    bench.now += 2 * HOUR
    for service in ("full", "tg"):
        with pytest.raises(SoldOut):
            await bench.there.rent(rental(service))
    assert {one.service for one in await bench.there.rent_offers(16, 24)} == {"wa"}
    assert (await bench.there.rent(rental("wa"))).number == NUMBER


async def test_after_a_tenant_of_everything_the_number_rests_for_everything(bench: Bench) -> None:
    lease = await bench.there.rent(rental())
    await finished(bench, lease)
    bench.now += 24 * HOUR
    with pytest.raises(SoldOut):
        await bench.there.buy(order("wa"))
    assert len(await bench.there.offers()) == 0
    bench.now += 30 * 24 * HOUR
    await bench.there.buy(order("wa"))


async def test_a_rental_nobody_used_rests_for_a_short_time(bench: Bench) -> None:
    lease = await bench.there.rent(rental())
    await bench.there.close(lease.reference, Outcome.FINISHED)
    bench.now += 1801
    await bench.there.buy(order("tg"))


async def test_a_rental_ends_by_itself_as_finished(bench: Bench) -> None:
    lease = await bench.there.rent(rental(hours=2))
    bench.now += 2 * HOUR
    assert (await bench.read(lease))[0] is LeaseState.FINISHED
    await bench.there.tidy()
    assert (await bench.read(lease))[0] is LeaseState.FINISHED


async def test_more_time_moves_the_end_up_to_the_longest(bench: Bench) -> None:
    lease = await bench.there.rent(rental(hours=24))
    assert await bench.there.extension_cost(lease.reference, 1) == (Money(20_000, "USD"), 2)
    assert await bench.there.extend(of(lease, service="full", hours=24)) == NOW + 48 * HOUR
    assert (await bench.there.read(Watched(lease.reference, 1))).expires_at == NOW + 48 * HOUR
    with pytest.raises(NotAllowed):
        await bench.there.extension_cost(lease.reference, 2)
    with pytest.raises(Refused):
        await bench.there.extend(of(lease, service="full", hours=2))
    with pytest.raises(SoldOut):
        await bench.there.extend(of(lease, service="full", hours=2, cost_max=19_999))
    bench.now += 47 * HOUR
    assert (await bench.read(lease))[0] is LeaseState.OPEN
    await bench.there.close(lease.reference, Outcome.FINISHED)
    with pytest.raises(NotAllowed):
        await bench.there.extension_cost(lease.reference, 2)


async def test_only_rentals_have_more_time(bench: Bench) -> None:
    lease = await bench.there.buy(order("tg"))
    with pytest.raises(NotAllowed):
        await bench.there.extension_cost(lease.reference, 2)
    with pytest.raises(UnknownLease):
        await bench.there.extension_cost("4711", 2)
    with pytest.raises(Refused):
        await bench.there.extend(of(lease, service="tg", hours=2))


async def test_a_rental_that_is_prolonged_as_it_runs_out_goes_on(bench: Bench) -> None:
    """Whoever ends what ran out has looked before the end was moved."""
    from gateway import numbers

    lease = await bench.there.rent(rental(hours=2))
    store, vault = bench.database.store, bench.database.vault
    bench.now += 2 * HOUR - 1
    assert await bench.there.extend(of(lease, service="full", hours=2)) == NOW + 4 * HOUR
    row = await store.read(numbers._lease_row, "there", int(lease.reference))
    stale = {**dict(row), "expires_at": NOW + 2 * HOUR}
    terms = bench.there._terms
    ended = await store.run(numbers._end, stale, Outcome.FINISHED, terms, bench.now, if_run_out=True)
    assert not ended
    assert (await bench.read(lease))[0] is LeaseState.OPEN
    assert vault is not None


async def test_a_rental_is_found_as_such(bench: Bench) -> None:
    await bench.add(OTHER)
    await bench.there.rent(rental())
    await bench.there.buy(order("tg"))
    assert [(one.service, one.is_rental) for one in await bench.there.find(NOW - 1)] == [("full", True), ("tg", False)]


async def test_parallel_tenants_never_share_a_number(bench: Bench) -> None:
    await bench.add(*(f"4477009002{place:02}" for place in range(9)))
    there = build(bench, shared=3)
    asks = [there.rent(rental()) if place % 2 else there.buy(order("tg")) for place in range(24)]
    got = [one for one in await asyncio.gather(*asks, return_exceptions=True) if isinstance(one, Lease)]
    assert len(got) == len({lease.number for lease in got}) == 10


async def test_a_rental_whose_commit_was_not_confirmed_is_in_doubt(bench: Bench, monkeypatch: Any) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise Unavailable

    lease = await bench.there.rent(rental())
    monkeypatch.setattr(bench.pool, "rent", away)
    monkeypatch.setattr(bench.pool, "prolong", away)
    with pytest.raises(InDoubt):
        await bench.there.rent(rental())
    with pytest.raises(InDoubt):
        await bench.there.extend(of(lease, service="full", hours=2))


# The same number for more


async def test_a_number_is_had_again_by_who_had_it_last(bench: Bench) -> None:
    first = await finished(bench, await bench.there.buy(order("tg")))
    assert await bench.there.reuse_cost(first.reference, NUMBER, "tg", 16) == Money(50_000, "USD")
    again = await bench.there.reuse(of(first))
    assert (again.number, again.reference != first.reference) == (NUMBER, True)
    with pytest.raises(SoldOut):
        await bench.there.reuse(of(first))
    await bench.push("Telegram code 67890")
    assert await bench.read(again) == (LeaseState.OPEN, ["Telegram code 67890"])
    with pytest.raises(NotAllowed):
        await bench.there.reuse_cost(first.reference, NUMBER, "tg", 16)


async def test_a_number_is_had_again_though_its_end_was_not_told_yet(bench: Bench) -> None:
    first = await bench.there.buy(order("tg"))
    await bench.push("Telegram code 12345")
    await bench.there.reuse(of(first))
    await bench.there.close(first.reference, Outcome.FINISHED)
    assert (await bench.read(first))[0] is LeaseState.FINISHED


async def test_a_number_is_not_had_again_when_somebody_else_had_it_or_it_is_out(bench: Bench) -> None:
    first = await finished(bench, await bench.there.buy(order("tg")))
    bench.now += 61
    second = await bench.there.buy(order("wa"))
    for _ in range(2):
        with pytest.raises(NotAllowed):
            await bench.there.reuse_cost(first.reference, NUMBER, "tg", 16)
        if (await bench.read(second))[0] is LeaseState.OPEN:
            await bench.there.close(second.reference, Outcome.CANCELLED)


@pytest.mark.parametrize("how", ["no message", "disabled", "quarantined", "another service"])
async def test_a_number_is_not_had_again(bench: Bench, how: str) -> None:
    first = await bench.there.buy(order("tg"))
    if how == "no message":
        await bench.there.close(first.reference, Outcome.CANCELLED)
    else:
        await finished(bench, first)
    changes = {"disabled": "is_enabled = 0", "quarantined": f"quarantined_until = {NOW + HOUR}"}
    if how in changes:
        await bench.database.store.run(lambda tx: tx.execute(f"update numbers set {changes[how]}"))  # noqa: S608 — of this test
    service = "wa" if how == "another service" else "tg"
    with pytest.raises(NotAllowed):
        await bench.there.reuse_cost(first.reference, NUMBER, service, 16)
    with pytest.raises(SoldOut):
        await bench.there.reuse(of(first, service=service))


async def test_parallel_askers_have_a_number_again_once(bench: Bench) -> None:
    first = await finished(bench, await bench.there.buy(order("tg")))
    asked = await asyncio.gather(*(bench.there.reuse(of(first)) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(one, Lease) for one in asked) == 1
    assert all(isinstance(one, Lease | SoldOut) for one in asked)


async def test_a_further_service_on_a_shared_number(bench: Bench) -> None:
    await bench.add(OTHER)
    there = build(bench, shared=2)
    first = await there.buy(order("tg"))
    second = await there.add_service(of(first, service="wa"))
    assert (second.number, second.cost) == (first.number, Money(50_000, "USD"))
    bench.there = there
    await bench.push("Your WhatsApp code: 123-456", to=f"+{first.number}")
    assert await bench.read(second) == (LeaseState.OPEN, ["Your WhatsApp code: 123-456"])
    assert (await bench.read(first))[1] == []
    for service in ("wa", "tg"):
        with pytest.raises(SoldOut):
            await there.add_service(of(first, service=service))


async def test_a_number_that_is_not_shared_takes_no_further_service(bench: Bench) -> None:
    await bench.add(OTHER)
    first = await bench.there.buy(order("tg"))
    with pytest.raises(SoldOut):
        await bench.there.add_service(of(first, service="wa"))
